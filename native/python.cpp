// The Python face of the C API: module bbg._native. Everything is checked in C; here arrays are only unwrapped.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <limits>
#include <stdexcept>

#include "bbg.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

void check(const char* error) {
  if (error) throw nb::value_error(error);  // bbg.engine raises it as BbgError
}

template <class T>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
using Floats = Array<float>;

template <class T>
bbg_array array_of(nb::handle given) {
  const auto array = nb::cast<Array<T>>(given);
  return {array.data(), array.size()};
}

constexpr const char* kRows[BBG_ROWS] = {"scale", "bias",   "shift", "gate",       "above",
                                         "below", "offset", "sign",  "byte_scale", "byte_bias"};

void set_pair(int64_t (&to)[2], nb::handle given) {
  to[0] = nb::cast<int64_t>(given[0]);
  to[1] = nb::cast<int64_t>(given[1]);
}

class Graph {
 public:
  Graph(const std::string& input, bool bytes, int64_t channels, int64_t height, int64_t width)
      : channels(size_t(channels)) {
    check(bbg_graph_new(input.c_str(), bytes, channels, height, width, &graph));
  }
  ~Graph() { bbg_graph_free(graph); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void add(const std::string& name, const std::string& kind, const std::vector<std::string>& operands,
           const std::optional<std::string>& shortcut, const std::optional<std::string>& real,
           const std::optional<std::string>& bits, const std::optional<std::string>& bytes, nb::dict attributes, nb::dict tensors, std::optional<float> low,
           std::optional<float> high) {
    constexpr float kOpen = std::numeric_limits<float>::infinity();
    const auto text = [](const std::optional<std::string>& s) { return s ? s->c_str() : nullptr; };
    bbg_op op{};
    op.name = name.c_str(), op.kind = kind.c_str();
    std::vector<const char*> names;
    for (const std::string& operand : operands) names.push_back(operand.c_str());
    op.operands = names.data(), op.operand_count = int64_t(names.size());
    op.shortcut = text(shortcut), op.real = text(real), op.bits = text(bits), op.bytes = text(bytes);
    op.low = low.value_or(-kOpen), op.high = high.value_or(kOpen);
    for (auto [key, value] : attributes) {
      const auto k = nb::cast<std::string>(key);
      if (k == "kernel") set_pair(op.kernel, value);
      else if (k == "stride") set_pair(op.stride, value);
      else if (k == "padding") set_pair(op.padding, value);
      else if (k == "dilation") set_pair(op.dilation, value);
      else if (k == "size") set_pair(op.size, value);
      else if (k == "groups") op.groups = nb::cast<int64_t>(value);
      else if (k == "channels") op.channels = nb::cast<int64_t>(value);
      else if (k == "eps") op.eps = float(nb::cast<double>(value));
      else if (k == "ceil_mode") op.ceil_mode = nb::cast<bool>(value);
      else if (k == "count_include_pad") op.count_include_pad = nb::cast<bool>(value);
      else throw nb::value_error(("unknown attribute '" + k + "'").c_str());
    }
    for (auto [key, value] : tensors) {
      const auto k = nb::cast<std::string>(key);
      if (k == "weight" && kind == "binary_conv") op.weight = array_of<uint64_t>(value);
      else if (k == "weight" && kind == "byte_conv") op.weight = array_of<int8_t>(value);
      else if (k == "weight") op.weight = array_of<float>(value);
      else if (k == "threshold") op.threshold = array_of<int32_t>(value);
      else if (k == "tap_bias") op.tap_bias = array_of<float>(value);
      else if (k == "and_mask") op.and_mask = array_of<uint64_t>(value);
      else if (k == "index") op.index = array_of<int32_t>(value);
      else {
        int row = 0;
        while (row < BBG_ROWS && k != kRows[row]) ++row;
        if (row == BBG_ROWS) throw nb::value_error(("unknown tensor '" + k + "'").c_str());
        op.rows[row] = array_of<float>(value);
      }
    }
    borrowed.append(tensors);
    check(bbg_graph_add(graph, &op));
  }

  void output(const std::string& value, bool flat) {
    check(bbg_graph_output(graph, value.c_str()));
    Output o{};
    check(bbg_graph_shape(graph, value.c_str(), o.shape));
    o.flat = flat;
    outputs.push_back(o);
  }

  struct Output {
    int64_t shape[3];
    bool flat;
    size_t numbers() const { return size_t(shape[0] * shape[1] * shape[2]); }
  };

  size_t channels;  // of the input
  bbg_graph* graph = nullptr;
  nb::list borrowed;  // keeps the arrays alive
  std::vector<Output> outputs;
};

// A new float32 array [images, ...].
nb::ndarray<nb::numpy, float> new_array(const Graph::Output& o, size_t images) {
  auto* data = new float[images * o.numbers()];
  const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  if (o.flat) return {data, {images, o.numbers()}, owner};
  return {data, {images, size_t(o.shape[0]), size_t(o.shape[1]), size_t(o.shape[2])}, owner};
}

class Engine {
 public:
  Engine(const Graph& graph, const std::optional<std::string>& isa, int threads, std::vector<float> scale,
         std::vector<float> bias)
      : ops_(nb::len(graph.borrowed)), outputs_(graph.outputs), scale_(std::move(scale)), bias_(std::move(bias)) {
    if ((!scale_.empty() || !bias_.empty()) && (scale_.size() != graph.channels || bias_.size() != graph.channels)) {
      throw nb::value_error("scale and bias must have one number per channel");
    }
    check(bbg_engine_new(graph.graph, isa ? isa->c_str() : nullptr, threads, &engine_));
  }
  ~Engine() { bbg_engine_free(engine_); }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  std::string isa() const { return bbg_engine_isa(engine_); }

  std::pair<size_t, size_t> bytes() const {
    std::pair<size_t, size_t> result;
    bbg_engine_bytes(engine_, &result.first, &result.second);
    return result;
  }

  // float32 [N, C, H, W] or uint8 [N, H, W, C]; sizes are checked in C.
  template <class T, bbg_input kKind>
  nb::list run(const Array<T>& images) {
    return run(kKind, images.data(), images.nbytes(), images.shape(0), nullptr);
  }

  template <class T, bbg_input kKind>
  std::vector<double> time(const Array<T>& images) {
    std::vector<double> seconds(ops_);
    run(kKind, images.data(), images.nbytes(), images.shape(0), seconds.data());
    return seconds;
  }

 private:
  nb::list run(bbg_input kind, const void* data, size_t bytes, size_t images, double* seconds) {
    nb::list arrays;
    std::vector<float*> to;
    std::vector<size_t> counts;
    for (const auto& o : outputs_) {
      auto array = new_array(o, images);
      to.push_back(array.data());
      counts.push_back(array.size());
      arrays.append(array);
    }
    const char* error;
    {
      const nb::gil_scoped_release released;
      const float* scale = scale_.empty() ? nullptr : scale_.data();
      const float* bias = bias_.empty() ? nullptr : bias_.data();
      error = bbg_engine_run(engine_, kind, data, bytes, int64_t(images), scale, bias, to.data(), counts.data(),
                             seconds);
    }
    check(error);
    return arrays;
  }

  bbg_engine* engine_ = nullptr;
  size_t ops_;
  std::vector<Graph::Output> outputs_;
  std::vector<float> scale_, bias_;  // what a byte of each channel stands for; empty where that is unknown
};

std::vector<std::pair<std::string, bool>> kernel_sets() {
  std::vector<std::pair<std::string, bool>> result;
  const char* name;
  int supported;
  for (int i = 0; bbg_kernel_set(i, &name, &supported); ++i) result.emplace_back(name, supported != 0);
  return result;
}

double roofline(const std::string& kernel_set) {
  double gmacs;
  const nb::gil_scoped_release released;
  const char* error = bbg_roofline(kernel_set.c_str(), &gmacs);
  if (error) throw nb::value_error(error);
  return gmacs;
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("kernel_sets", kernel_sets, "Names of the kernel sets, best first, and whether this machine runs them.");

  m.def("roofline", roofline, "kernel_set"_a, "GMAC/s of the plain xor, popcount and addition loop, measured now.");

  nb::class_<Graph>(m, "Graph")
      .def(nb::init<const std::string&, bool, int64_t, int64_t, int64_t>(), "input"_a, "bytes"_a, "channels"_a, "height"_a, "width"_a)
      .def("add", &Graph::add, "name"_a, "kind"_a, "operands"_a, "shortcut"_a.none(), "real"_a.none(), "bits"_a.none(),
           "bytes"_a.none(), "attributes"_a, "tensors"_a, "low"_a.none(), "high"_a.none())
      .def("output", &Graph::output, "value"_a, "flat"_a);

  nb::class_<Engine>(m, "Engine")
      .def(nb::init<const Graph&, const std::optional<std::string>&, int, std::vector<float>, std::vector<float>>(),
           "graph"_a, "isa"_a.none(), "threads"_a, "scale"_a, "bias"_a)
      .def_prop_ro("isa", &Engine::isa)
      .def_prop_ro("bytes", &Engine::bytes)
      .def("run_floats", &Engine::run<float, BBG_FLOAT_NCHW>, "images"_a)
      .def("run_bytes", &Engine::run<uint8_t, BBG_BYTE_NHWC>, "images"_a)
      .def("time_floats", &Engine::time<float, BBG_FLOAT_NCHW>, "images"_a)
      .def("time_bytes", &Engine::time<uint8_t, BBG_BYTE_NHWC>, "images"_a);
}
