// The Python face of the C API: module bbg._native. Everything is checked in C; here arrays are only unwrapped. The
// names of kinds, attributes, tensors and parameters are those of kinds.h.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "bbg.h"
#include "boxes.h"
#include "errors.h"
#include "interpreter.h"
#include "kinds.h"

namespace nb = nanobind;
using bbg::Interpreter;
using namespace nb::literals;

namespace {

void check(const char* error) {
  if (PyErr_Occurred()) throw nb::python_error();  // what a signal's handler raised, such as KeyboardInterrupt
  if (error) throw nb::value_error(error);         // bbg.engine raises it as BbgError
}

template <class T>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

template <class T>
bbg_array array_of(nb::handle given) {
  const auto array = nb::cast<Array<T>>(given);
  return {array.data(), array.size()};
}

bbg_array array_of(bbg::Element element, nb::handle given) {
  switch (element) {
    case bbg::Element::int8: return array_of<int8_t>(given);
    case bbg::Element::int32: return array_of<int32_t>(given);
    case bbg::Element::uint64: return array_of<uint64_t>(given);
    default: return array_of<float>(given);
  }
}

// The row of a table called `name`; null where there is none.
template <class Row, size_t N>
const Row* row_named(const Row (&table)[N], const std::string& name) {
  const auto found = std::find_if(std::begin(table), std::end(table), [&](const Row& row) { return name == row.name; });
  return found == std::end(table) ? nullptr : found;
}

// Strings that a bbg_op borrows while it is added.
using Words = std::deque<std::string>;

void set_attribute(bbg_attributes& to, const std::string& name, nb::handle value, Words& words) {
  const bbg::Attribute* attribute = row_named(bbg::kAttributes, name);
  if (!attribute) throw nb::value_error(("unknown attribute '" + name + "'").c_str());
  if (attribute->pair) {
    for (int axis = 0; axis < 2; ++axis) (to.*attribute->pair)[axis] = nb::cast<int64_t>(value[axis]);
  } else if (attribute->integer) {
    to.*attribute->integer = nb::cast<int64_t>(value);
  } else if (attribute->number) {
    to.*attribute->number = float(nb::cast<double>(value));
  } else if (attribute->boolean) {
    to.*attribute->boolean = nb::cast<bool>(value);
  } else {
    words.push_back(nb::cast<std::string>(value));
    to.*attribute->word = words.back().c_str();
  }
}

void set_tensor(bbg_op& op, const std::string& name, nb::handle value, const bbg::KindRule* kind) {
  if (const bbg::TensorRule* tensor = row_named(bbg::kTensors, name)) {
    const bool of_kind = tensor->element == bbg::Element::none && kind;
    op.*tensor->field = array_of(of_kind ? kind->weight : tensor->element, value);
    return;
  }
  const auto found = std::find(std::begin(bbg::kParameters), std::end(bbg::kParameters), name);
  if (found == std::end(bbg::kParameters)) throw nb::value_error(("unknown tensor '" + name + "'").c_str());
  op.epilogue[found - std::begin(bbg::kParameters)] = array_of<float>(value);
}

struct Output {
  std::vector<size_t> shape;  // per image
  size_t numbers = 1;
};

// The shape of an output whose parts have so many numbers per image.
Output checked_shape(const std::vector<int64_t>& shape, int64_t numbers) {
  constexpr size_t kMostRank = 6;
  if (shape.empty() || shape.size() > kMostRank) {
    throw nb::value_error(("an output has rank " + std::to_string(shape.size()) + "; allowed are 1 to 6").c_str());
  }
  Output result;
  int64_t product = 1;
  for (int64_t size : shape) {
    if (size < 1 || size > numbers / product) product = 0;  // does not fit: no size may follow
    if (!product) break;
    product *= size;
    result.shape.push_back(size_t(size));
  }
  if (product != numbers) {
    const std::string sentence = "an output's shape must have the " + std::to_string(numbers) + " numbers of its parts";
    throw nb::value_error(sentence.c_str());
  }
  result.numbers = size_t(numbers);
  return result;
}

class Graph {
 public:
  Graph(const std::string& input, bool bytes, int64_t channels, int64_t height, int64_t width)
      : input_channels(size_t(channels)) {
    check(bbg_graph_new(input.c_str(), bytes, channels, height, width, &graph));
  }
  ~Graph() { bbg_graph_free(graph); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void add(const std::string& name, const std::string& kind, const std::vector<std::string>& operands,
           const std::optional<std::string>& shortcut, const std::optional<std::string>& real,
           const std::optional<std::string>& bits, const std::optional<std::string>& bytes, nb::dict attributes,
           nb::dict tensors, std::optional<float> low, std::optional<float> high) {
    constexpr float kOpen = std::numeric_limits<float>::infinity();
    const auto text = [](const std::optional<std::string>& s) { return s ? s->c_str() : nullptr; };
    bbg_op op{};
    Words words;
    op.name = name.c_str(), op.kind = kind.c_str();
    std::vector<const char*> names;
    for (const std::string& operand : operands) names.push_back(operand.c_str());
    op.operands = names.data(), op.operand_count = int64_t(names.size());
    op.shortcut = text(shortcut), op.real = text(real), op.bits = text(bits), op.bytes = text(bytes);
    op.low = low.value_or(-kOpen), op.high = high.value_or(kOpen);
    for (auto [key, value] : attributes) set_attribute(op.attributes, nb::cast<std::string>(key), value, words);
    const bbg::KindRule* rule = row_named(bbg::kKinds, kind);
    for (auto [key, value] : tensors) set_tensor(op, nb::cast<std::string>(key), value, rule);
    borrowed.append(tensors);
    check(bbg_graph_add(graph, &op));
  }

  void output(const std::vector<std::pair<std::string, std::string>>& parts, const std::vector<int64_t>& shape) {
    std::vector<bbg_part> given;
    int64_t numbers = 0;
    for (const auto& [value, order] : parts) {
      given.push_back({value.c_str(), order.c_str()});
      int64_t size[3];
      check(bbg_graph_shape(graph, value.c_str(), size));
      numbers += size[0] * size[1] * size[2];
    }
    const Output o = checked_shape(shape, numbers);
    check(bbg_graph_output(graph, given.data(), int64_t(given.size())));
    outputs.push_back(o);
  }

  size_t input_channels;
  bbg_graph* graph = nullptr;
  nb::list borrowed;  // keeps the arrays alive
  std::vector<Output> outputs;
};

// A new float32 array [images, *shape].
nb::ndarray<nb::numpy, float> new_array(const Output& o, size_t images) {
  auto* data = new float[images * o.numbers];
  const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  std::vector<size_t> shape{images};
  shape.insert(shape.end(), o.shape.begin(), o.shape.end());
  return {data, shape.size(), shape.data(), owner};
}

class Engine {
 public:
  Engine(const Graph& graph, const std::optional<std::string>& isa, int threads, std::vector<float> scale,
         std::vector<float> bias, int64_t memory, int64_t operations)
      : ops_(nb::len(graph.borrowed)), outputs_(graph.outputs), scale_(std::move(scale)), bias_(std::move(bias)) {
    if ((!scale_.empty() || !bias_.empty()) &&
        (scale_.size() != graph.input_channels || bias_.size() != graph.input_channels)) {
      throw nb::value_error("scale and bias must have one number per channel");
    }
    const bbg_limits limits{memory, operations};
    const char* set = isa ? isa->c_str() : nullptr;
    check(Interpreter::unlocked(
        [&] { return bbg_engine_new(graph.graph, set, threads, &limits, Interpreter::stopped, nullptr, &engine_); }));
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
    return run(kKind, images.data(), images.nbytes(), count_of(images), nullptr);
  }

  template <class T, bbg_input kKind>
  std::vector<double> time(const Array<T>& images) {
    std::vector<double> seconds(ops_);
    run(kKind, images.data(), images.nbytes(), count_of(images), seconds.data());
    return seconds;
  }

 private:
  template <class T>
  static size_t count_of(const Array<T>& images) {
    return images.ndim() ? images.shape(0) : 0;
  }

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
    const float* scale = scale_.empty() ? nullptr : scale_.data();
    const float* bias = bias_.empty() ? nullptr : bias_.data();
    check(Interpreter::unlocked([&] {
      return bbg_engine_run(engine_, kind, data, bytes, int64_t(images), scale, bias, to.data(), counts.data(), seconds,
                            Interpreter::stopped, nullptr);
    }));
    return arrays;
  }

  bbg_engine* engine_ = nullptr;
  size_t ops_;
  std::vector<Output> outputs_;
  std::vector<float> scale_, bias_;  // what a byte of each channel stands for; empty where that is unknown
};

std::vector<std::pair<std::string, bool>> kernel_sets() {
  std::vector<std::pair<std::string, bool>> result;
  const char* name;
  int supported;
  for (int i = 0; bbg_kernel_set(i, &name, &supported); ++i) result.emplace_back(name, supported != 0);
  return result;
}

std::string choose(const std::optional<std::string>& name) {
  const char* chosen;
  check(bbg_choose_kernel_set(name ? name->c_str() : nullptr, &chosen));
  return chosen;
}

double roofline(const std::string& kernel_set) {
  double gmacs;
  check(Interpreter::unlocked([&] { return bbg_roofline(kernel_set.c_str(), &gmacs); }));
  return gmacs;
}

// ---- kinds.h as Python sees it --------------------------------------------------------------------------------------

template <class Row, size_t N>
nb::list names_of(const Row (&table)[N], uint32_t bits) {
  nb::list names;
  for (const Row& row : table) {
    if (bits & row.bit) names.append(row.name);
  }
  return names;
}

nb::list parameters(uint32_t bits) {
  nb::list names;
  for (int i = 0; i < BBG_PARAMETERS; ++i) {
    if (bits >> i & 1) names.append(bbg::kParameters[i]);
  }
  return names;
}

nb::dict kinds() {
  nb::dict result;
  for (const bbg::KindRule& rule : bbg::kKinds) {
    nb::dict row;
    row["main"] = bbg::kTypes[int(rule.main)];
    row["operands"] = rule.operands;
    row["attributes"] = names_of(bbg::kAttributes, rule.attributes);
    row["required"] = names_of(bbg::kTensors, rule.required);
    row["optional"] = names_of(bbg::kTensors, rule.optional);
    row["epilogue"] = parameters(rule.epilogue);
    row["shortcut"] = rule.shortcut;
    row["real_output"] = rule.real_output;
    row["weight"] = bbg::kElements[int(rule.weight)];
    result[rule.name] = row;
  }
  return result;
}

nb::dict attributes() {
  nb::dict result;
  for (const bbg::Attribute& attribute : bbg::kAttributes) result[attribute.name] = attribute.form();
  return result;
}

nb::list functions() {
  nb::list names;
  for (int i = 0; const char* name = bbg_function(i); ++i) names.append(name);
  return names;
}

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T, class... Sizes>
nb::ndarray<nb::numpy, T> given_away(std::vector<T> numbers, Sizes... sizes) {
  auto* kept = new std::vector<T>(std::move(numbers));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(kept->data(), {size_t(sizes)...}, owner);
}

nb::tuple detect(const Rows& offsets, const Rows& logits, const Rows& priors, float move, float scale, double score,
                 double overlap, int64_t each, int64_t most) {
  const size_t count = priors.shape(0), columns = logits.shape(1);
  if (offsets.shape(0) != count || logits.shape(0) != count || offsets.shape(1) != 4 || priors.shape(1) != 4 ||
      !columns)
    throw nb::value_error("offsets and priors must be [P, 4], logits [P, 1 + classes]");
  const bbg::Seen seen{offsets.data(), logits.data(), priors.data(), int64_t(count), int64_t(columns) - 1};
  std::vector<bbg::Detected> found;
  try {
    found = bbg::detect(seen, {move, scale, score, overlap, each, most});
  } catch (const bbg::InvalidArgument& error) {
    throw nb::value_error(error.what());
  }
  std::vector<float> boxes;
  std::vector<int64_t> classes;
  std::vector<double> shares;
  for (const bbg::Detected& one : found) {
    boxes.insert(boxes.end(), {one.box.left, one.box.top, one.box.right, one.box.bottom});
    classes.push_back(one.number);
    shares.push_back(one.share);
  }
  const size_t kept = found.size();
  return nb::make_tuple(given_away(std::move(boxes), kept, 4), given_away(std::move(classes), kept),
                        given_away(std::move(shares), kept));
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // of what lives until the process ends, as in a thread that is stopped there
  Interpreter::watch();
  m.def("kernel_sets", kernel_sets, "Names of the kernel sets, best first, and whether this machine runs them.");
  m.def("choose", choose, "name"_a.none(),
        "The kernel set that an engine asked for by `name` gets (None: what BBG_ISA says, else the best).");
  m.def("roofline", roofline, "kernel_set"_a, "GMAC/s of the plain xor, popcount and addition loop, measured now.");

  m.def("detect", detect, "offsets"_a, "logits"_a, "priors"_a, "move"_a, "scale"_a, "score"_a, "overlap"_a, "each"_a,
        "most"_a, "The boxes of one image: [K, 4] in shares of its sides, classes and probabilities, the best first.");

  m.def("kinds", kinds, "The table of native/kinds.h: a dict per op kind.");
  m.def("attributes", attributes, "Name of each attribute and its form.");
  m.def("epilogue", [] { return parameters(bbg::kWithShift); }, "Names of the epilogue parameters, in order.");
  m.def("functions", functions, "Names of the unary functions, in order.");

  nb::class_<Graph>(m, "Graph")
      .def(nb::init<const std::string&, bool, int64_t, int64_t, int64_t>(), "input"_a, "bytes"_a, "channels"_a,
           "height"_a, "width"_a)
      .def("add", &Graph::add, "name"_a, "kind"_a, "operands"_a, "shortcut"_a.none(), "real"_a.none(), "bits"_a.none(),
           "bytes"_a.none(), "attributes"_a, "tensors"_a, "low"_a.none(), "high"_a.none())
      .def("output", &Graph::output, "parts"_a, "shape"_a);

  nb::class_<Engine>(m, "Engine")
      .def(nb::init<const Graph&, const std::optional<std::string>&, int, std::vector<float>, std::vector<float>,
                    int64_t, int64_t>(),
           "graph"_a, "isa"_a.none(), "threads"_a, "scale"_a, "bias"_a, "memory"_a, "operations"_a)
      .def_prop_ro("isa", &Engine::isa)
      .def_prop_ro("bytes", &Engine::bytes)
      .def("run_floats", &Engine::run<float, BBG_FLOAT_NCHW>, "images"_a)
      .def("run_bytes", &Engine::run<uint8_t, BBG_BYTE_NHWC>, "images"_a)
      .def("time_floats", &Engine::time<float, BBG_FLOAT_NCHW>, "images"_a)
      .def("time_bytes", &Engine::time<uint8_t, BBG_BYTE_NHWC>, "images"_a);
}
