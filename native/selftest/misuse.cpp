// Calls that a caller should not make: each is answered, and none reads what was not given.
#include "selftest.h"

namespace selftest {
namespace {

void refused(const char* error, const char* what) {
  if (!error) require((std::string(what) + " was taken").c_str());
}

}  // namespace

void check_misuse() {
  bbg_graph* graph = nullptr;
  refused(bbg_graph_new(nullptr, 0, 1, 4, 4, &graph), "an input without a name");
  refused(bbg_graph_new("x", 0, 1, 4, 4, nullptr), "no place for a graph");
  require(bbg_graph_new("x", 1, 1, 4, 4, &graph));
  const bbg_op op = op_of("pool", "adaptive_avg_pool", {"x"}, "y", nullptr);
  refused(bbg_graph_add(nullptr, &op), "no graph");
  refused(bbg_graph_add(graph, nullptr), "no op");
  refused(bbg_graph_add(graph, &op), "a pool of bytes");
  bbg_engine* engine = nullptr;
  refused(bbg_engine_new(graph, nullptr, 1, nullptr, nullptr, nullptr, &engine), "a graph without outputs");
  bbg_graph_free(graph);

  require(bbg_graph_new("x", 0, 1, 4, 4, &graph));
  require(bbg_graph_add(graph, &op));
  const bbg_part part{"y", "CHW"};
  require(bbg_graph_output(graph, &part, 1));
  refused(bbg_graph_output(graph, nullptr, 1), "no parts");
  for (int threads : {0, -1, 100000})
    refused(bbg_engine_new(graph, nullptr, threads, nullptr, nullptr, nullptr, &engine), "threads");
  refused(bbg_engine_new(graph, "none", 1, nullptr, nullptr, nullptr, &engine), "an unknown kernel set");
  for (const bbg_limits limits : {bbg_limits{-1, 1000}, bbg_limits{1 << 20, -1}, bbg_limits{100, 1000}}) {
    refused(bbg_engine_new(graph, nullptr, 1, &limits, nullptr, nullptr, &engine), "more than the limits allow");
  }
  require(bbg_engine_new(graph, nullptr, 1, nullptr, nullptr, nullptr, &engine));
  bbg_graph_free(graph);

  const std::vector<uint8_t> few(16);
  float y = 0, *outputs[] = {&y}, *none[] = {nullptr};
  const size_t counts[] = {1}, too_few[] = {0};
  const auto run = [&](int kind, const void* data, size_t bytes, int64_t images, float* const* to, const size_t* room) {
    return bbg_engine_run(engine, kind, data, bytes, images, nullptr, nullptr, to, room, nullptr, nullptr, nullptr);
  };
  for (int kind : {2, 7, -1})
    refused(run(kind, few.data(), few.size(), 1, outputs, counts), "an unknown kind of input");
  refused(run(BBG_BYTE_NHWC, few.data(), few.size(), 1, outputs, counts), "bytes without a scale");
  refused(run(BBG_FLOAT_NCHW, few.data(), few.size(), 1, outputs, counts), "too few bytes");
  refused(run(BBG_FLOAT_NCHW, nullptr, 64, 1, outputs, counts), "no data");
  refused(run(BBG_FLOAT_NCHW, few.data(), 64, 0, outputs, counts), "no image");
  refused(run(BBG_FLOAT_NCHW, few.data(), 64, 1, none, counts), "no place for the output");
  refused(run(BBG_FLOAT_NCHW, few.data(), 64, 1, outputs, too_few), "too little room");
  refused(bbg_engine_run(nullptr, BBG_FLOAT_NCHW, few.data(), 64, 1, nullptr, nullptr, outputs, counts, nullptr,
                         nullptr, nullptr),
          "no engine");
  bbg_engine_free(engine);

  bbg_engine_bytes(nullptr, nullptr, nullptr);
  bbg_graph_free(nullptr), bbg_engine_free(nullptr);
  if (bbg_engine_isa(nullptr) || bbg_function(-1) || bbg_kernel_set(-1, nullptr, nullptr)) {
    require("what is not there has a name");
  }
  bbg_kernel_set(0, nullptr, nullptr);
  refused(bbg_choose_kernel_set(nullptr, nullptr), "no place for a name");
  refused(bbg_roofline(nullptr, nullptr), "no kernel set");
}

}  // namespace selftest
