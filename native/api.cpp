// The C API: no exception leaves, every failure is a sentence.
#include "bbg.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <system_error>

#include "engine.h"
#include "roofline.h"

namespace {

constexpr int kMostThreads = 1024;

template <class Action>
const char* guarded(Action action) noexcept {
  thread_local std::string sentence;
  try {
    action();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return "there is not enough memory";
  } catch (const std::exception& error) {
    try {
      const bool thread = dynamic_cast<const std::system_error*>(&error);  // as std::thread throws it
      sentence =
          thread ? "no more threads can be started (" + std::string(error.what()) + "); ask for fewer" : error.what();
      return sentence.c_str();
    } catch (...) {
      return "there is not enough memory";
    }
  }
}

void require(bool given) {
  if (!given) throw bbg::InvalidArgument("an argument is null");
}

}  // namespace

const char* bbg_graph_new(const char* input, int bytes, int64_t channels, int64_t height, int64_t width,
                          bbg_graph** graph) {
  return guarded([&] {
    require(graph);
    *graph = new bbg_graph{bbg::Graph(input, bytes ? bbg::Type::bytes : bbg::Type::real, {channels, height, width})};
  });
}

const char* bbg_graph_add(bbg_graph* graph, const bbg_op* op) {
  return guarded([&] {
    require(graph && op);
    graph->graph.add(*op);
  });
}

const char* bbg_graph_output(bbg_graph* graph, const bbg_part* parts, int64_t count) {
  return guarded([&] {
    require(graph);
    graph->graph.add_output(parts, count);
  });
}

const char* bbg_graph_shape(const bbg_graph* graph, const char* value, int64_t shape[3]) {
  return guarded([&] {
    require(graph && value && shape);
    const int found = graph->graph.find(value);
    if (found == bbg::kNone) throw bbg::InvalidArgument(std::string("there is no value '") + value + "'");
    const bbg::Value& v = graph->graph.values[size_t(found)];
    shape[0] = v.channels, shape[1] = v.height, shape[2] = v.width;
  });
}

void bbg_graph_free(bbg_graph* graph) { delete graph; }

const char* bbg_engine_new(const bbg_graph* graph, const char* kernel_set, int threads, const bbg_limits* limits,
                           int (*stop)(void* context), void* context, bbg_engine** engine) {
  return guarded([&] {
    require(graph && engine);
    if (graph->graph.outputs.empty()) throw bbg::InvalidArgument("the graph has no output");
    if (threads < 1 || threads > kMostThreads) {
      throw bbg::InvalidArgument(std::to_string(threads) + " threads; allowed are 1 to " +
                                 std::to_string(kMostThreads));
    }
    bbg::Limits most{bbg::kMemoryLimit, std::numeric_limits<int64_t>::max()};
    if (limits) most = {std::min(limits->memory, bbg::kMemoryLimit), limits->operations};
    bbg::StopRequest request(stop, context);
    *engine = new bbg_engine{{graph->graph, bbg::choose_kernels(kernel_set), threads, most, request}};
  });
}

const char* bbg_engine_isa(const bbg_engine* engine) { return engine ? engine->engine.isa() : nullptr; }

void bbg_engine_bytes(const bbg_engine* engine, size_t* constants, size_t* workspace) {
  if (constants) *constants = engine ? size_t(engine->engine.constant_bytes()) : 0;
  if (workspace) *workspace = engine ? size_t(engine->engine.workspace_bytes()) : 0;
}

void bbg_engine_free(bbg_engine* engine) { delete engine; }

const char* bbg_engine_run(bbg_engine* engine, int kind, const void* data, size_t bytes, int64_t images,
                           const float* scale, const float* bias, float* const* outputs, const size_t* counts,
                           double* seconds, int (*stop)(void* context), void* context) {
  return guarded([&] {
    require(engine && outputs && counts);
    if (kind != BBG_FLOAT_NCHW && kind != BBG_BYTE_NHWC) {
      throw bbg::InvalidArgument("the input is of kind " + std::to_string(kind) + "; allowed are 0 and 1");
    }
    bbg::StopRequest request(stop, context);
    engine->engine.run(bbg_input(kind), data, bytes, images, scale, bias, outputs, counts, seconds, request);
  });
}

const char* bbg_choose_kernel_set(const char* name, const char** chosen) {
  return guarded([&] {
    require(chosen);
    *chosen = bbg::choose_kernels(name).name;
  });
}

const char* bbg_function(int index) {
  const bbg::Kernels& kernels = *bbg::kernels_scalar();
  return index >= 0 && index < kernels.function_count ? kernels.functions[index].name : nullptr;
}

const char* bbg_roofline(const char* kernel_set, double* gmacs) {
  return guarded([&] {
    require(kernel_set && gmacs);
    *gmacs = bbg::roofline(kernel_set);
    if (!(*gmacs > 0)) throw bbg::InvalidArgument("this machine has no kernel set '" + std::string(kernel_set) + "'");
  });
}

int bbg_kernel_set(int index, const char** name, int* supported) {
  if (index < 0 || index >= bbg::kKernelSets) return 0;
  const bbg::KernelSet& set = bbg::kernel_sets()[index];
  if (name) *name = set.name;
  if (supported) *supported = set.kernels != nullptr;
  return 1;
}
