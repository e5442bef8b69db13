// A self-check of the kernel sets without Python. Every kind of native/kinds.h is checked on every set: one op against
// a loop over its definition (integers must be equal, real values within rounding), then networks of all kinds against
// the scalar set. Also what sanitizers, other compilers and other machines run:
//
//   cmake -S . -B build/selftest -DBBG_PYTHON=OFF [-DBBG_SANITIZE=address,undefined] && cmake --build build/selftest
//   build/selftest/selftest [cases]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "bbg.h"
#include "kinds.h"

namespace {

using bbg::Kind;
using bbg::KindRule;
using bbg::Type;

std::mt19937 random_bits(1);

int64_t draw(int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(random_bits); }

std::vector<float> normal(int64_t count) {
  std::normal_distribution<float> gauss;
  std::vector<float> v(static_cast<size_t>(count));
  for (float& x : v) x = gauss(random_bits);
  return v;
}

template <class T>
bbg_array array(const std::vector<T>& v) {
  return {v.data(), v.size()};
}

void require(const char* error) {
  if (!error) return;
  std::printf("FAILED: %s\n", error);
  std::exit(1);
}

using Names = std::vector<const char*>;

// An op with what a zeroed bbg_op needs besides.
bbg_op op_of(const char* name, const char* kind, const Names& operands, const char* real, const char* bits) {
  static std::deque<Names> kept;  // an op only borrows them
  kept.push_back(operands);
  bbg_op op{};
  op.name = name, op.kind = kind, op.real = real, op.bits = bits;
  op.operands = kept.back().data(), op.operand_count = static_cast<int64_t>(operands.size());
  bbg_attributes& a = op.attributes;
  for (int axis = 0; axis < 2; ++axis) a.kernel[axis] = a.stride[axis] = a.dilation[axis] = a.size[axis] = 1;
  a.groups = 1, a.eps = 1e-3F;
  op.low = -std::numeric_limits<float>::infinity(), op.high = std::numeric_limits<float>::infinity();
  return op;
}

struct Shape {
  int64_t channels, height, width;
  int64_t numbers() const { return channels * height * width; }
  int64_t at(int64_t c, int64_t y, int64_t x) const { return (c * height + y) * width + x; }
};

// The one output of a graph.
std::vector<float> run(const bbg_graph* graph, const char* kernel_set, int threads, const std::vector<float>& x,
                       int64_t images, int64_t numbers) {
  bbg_engine* engine = nullptr;
  require(bbg_engine_new(graph, kernel_set, threads, &engine));
  std::vector<float> y(static_cast<size_t>(numbers * images));
  float* const outputs[] = {y.data()};
  const size_t counts[] = {y.size()};
  const size_t bytes = x.size() * sizeof(float);
  require(bbg_engine_run(engine, BBG_FLOAT_NCHW, x.data(), bytes, images, nullptr, nullptr, outputs, counts, nullptr));
  bbg_engine_free(engine);
  return y;
}

std::vector<std::string> supported_sets() {
  std::vector<std::string> sets;
  const char* name;
  int supported;
  for (int i = 0; bbg_kernel_set(i, &name, &supported); ++i) {
    if (supported) sets.push_back(name);
  }
  return sets;
}

std::vector<std::string> unary_functions() {
  std::vector<std::string> names;
  for (int i = 0; const char* name = bbg_function(i); ++i) names.push_back(name);
  return names;
}

// ---- one op against its definition ----------------------------------------------------------------------------------

// The value of a kind or function that is not known here. It is compared with the scalar set alone: the Python tests
// hold every formula (src/bbg/graph/kinds.py).
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

struct Case {
  const KindRule* rule = nullptr;
  std::string function;
  Shape in{}, out{};
  int64_t images = 1, groups = 1;
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
  bool ceil_mode = false, count_include_pad = false, gate = false;  // gate: the factor is the mean of the map
  std::vector<float> weight;                                        // [filter][tap row][tap column][channel]
  std::vector<int8_t> byte_weight;
  std::vector<uint64_t> bit_weight, and_mask;
  std::vector<int32_t> index;

  bool has(uint32_t attribute) const { return rule->attributes & attribute; }
  bool integers() const { return rule->main != Type::real; }
  int64_t inputs() const { return in.channels / groups; }

  // PyTorch's number of windows.
  int64_t steps(int axis) const {
    const int64_t size = axis ? in.width : in.height;
    const int64_t span = size + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1;
    if (!ceil_mode) return span < 0 ? 0 : span / stride[axis] + 1;
    const int64_t count = static_cast<int64_t>(std::ceil(double(span) / double(stride[axis]))) + 1;
    return (count - 1) * stride[axis] >= size + padding[axis] ? count - 1 : count;
  }

  // Calls tap(row of the kernel, column of the kernel, row of the map, column of the map) for the taps inside the map.
  template <class Tap>
  void for_taps(int64_t y, int64_t x, Tap tap) const {
    for (int64_t ky = 0; ky < kernel[0]; ++ky) {
      for (int64_t kx = 0; kx < kernel[1]; ++kx) {
        const int64_t iy = y * stride[0] - padding[0] + ky * dilation[0];
        const int64_t ix = x * stride[1] - padding[1] + kx * dilation[1];
        if (iy >= 0 && iy < in.height && ix >= 0 && ix < in.width) tap(ky, kx, iy, ix);
      }
    }
  }

  // The result at channel c, row y, column x. `image`: the operand's numbers, bits as +1 and -1.
  double value(const float* image, int64_t c, int64_t y, int64_t x) const {
    const auto at = [&](int64_t channel, int64_t iy, int64_t ix) { return double(image[in.at(channel, iy, ix)]); };
    double sum = 0, most = -std::numeric_limits<double>::infinity();
    int64_t count = 0;
    switch (rule->kind) {
      case Kind::conv:
      case Kind::byte_conv:
      case Kind::binary_conv: {
        const int64_t first = c / (out.channels / groups) * inputs();
        for_taps(y, x, [&](int64_t ky, int64_t kx, int64_t iy, int64_t ix) {
          const float* w = weight.data() + ((c * kernel[0] + ky) * kernel[1] + kx) * inputs();
          for (int64_t i = 0; i < inputs(); ++i) sum += at(first + i, iy, ix) * double(w[i]);
        });
        return sum;
      }
      case Kind::max_pool:
        for_taps(y, x, [&](int64_t, int64_t, int64_t iy, int64_t ix) { most = std::max(most, at(c, iy, ix)); });
        return most;
      case Kind::max_pool_bits: {  // OR, or AND where the mask says so
        const double flip = and_mask[static_cast<size_t>(c / 64)] >> c % 64 & 1 ? -1 : 1;
        for_taps(y, x, [&](int64_t, int64_t, int64_t iy, int64_t ix) { most = std::max(most, flip * at(c, iy, ix)); });
        return flip * most;
      }
      case Kind::avg_pool: {
        for_taps(y, x, [&](int64_t, int64_t, int64_t iy, int64_t ix) { sum += at(c, iy, ix), ++count; });
        const int64_t top = y * stride[0] - padding[0], left = x * stride[1] - padding[1];
        const int64_t rows = std::min(top + kernel[0], in.height + padding[0]) - top;
        const int64_t columns = std::min(left + kernel[1], in.width + padding[1]) - left;
        return sum / double(count_include_pad ? rows * columns : count);
      }
      case Kind::adaptive_avg_pool:
        for (int64_t iy = y * in.height / out.height; iy * out.height < (y + 1) * in.height; ++iy) {
          for (int64_t ix = x * in.width / out.width; ix * out.width < (x + 1) * in.width; ++ix) {
            sum += at(c, iy, ix), ++count;
          }
        }
        return sum / double(count);
      case Kind::match_channels:
        for (int64_t i = c % in.channels; i < in.channels; i += out.channels) sum += at(i, y, x), ++count;
        return sum / double(count);
      case Kind::pointwise: return at(c, y, x);
      case Kind::concat: return at(c % in.channels, y, x);
      case Kind::select: return at(index[static_cast<size_t>(c)], y, x);
      case Kind::multiply:
        if (!gate) return at(c, y, x) * at(c, y, x);
        for (int64_t i = 0; i < in.height * in.width; ++i) sum += at(c, 0, i);
        return at(c, y, x) * sum / double(in.height * in.width);
      case Kind::unary: return unary(at(c, y, x));
      case Kind::layer_norm: {
        const double mean_of = double(in.channels);
        double squares = 0;
        for (int64_t i = 0; i < in.channels; ++i) sum += at(i, y, x) / mean_of;
        for (int64_t i = 0; i < in.channels; ++i) squares += std::pow(at(i, y, x) - sum, 2) / mean_of;
        return (at(c, y, x) - sum) / std::sqrt(squares + double(1e-3F));
      }
      default: return kUnknown;
    }
  }

  double unary(double v) const {
    if (function == "tanh") return std::tanh(v);
    if (function == "sigmoid") return 1 / (1 + std::exp(-v));
    if (function == "silu") return v / (1 + std::exp(-v));
    if (function == "hardswish") return v * std::min(1.0, std::max(0.0, v / 6 + 0.5));
    if (function == "gelu") return v * 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
    return kUnknown;
  }
};

void draw_window(Case& c) {
  const bool pool = !(c.rule->required & bbg::kWeight);
  c.ceil_mode = c.has(bbg::kCeilMode) && draw(0, 1);
  c.count_include_pad = c.has(bbg::kCountIncludePad) && draw(0, 1);
  for (int a = 0; a < 2; ++a) {
    c.kernel[a] = draw(0, 1) ? 3 : draw(1, 7);
    c.stride[a] = draw(1, 2);
    c.padding[a] = draw(0, pool ? c.kernel[a] / 2 : 3);
    if (c.has(bbg::kDilation)) c.dilation[a] = draw(0, 2) ? 1 : draw(1, pool ? std::min<int64_t>(3, c.in.height) : 3);
  }
}

void draw_weight(Case& c) {
  const int64_t per_filter = c.kernel[0] * c.kernel[1] * c.inputs(), words = (per_filter + 63) / 64;
  c.weight = normal(c.out.channels * per_filter);
  if (c.rule->weight == bbg::Element::int8) {
    for (float& w : c.weight) c.byte_weight.push_back(static_cast<int8_t>(draw(-128, 127))), w = c.byte_weight.back();
  }
  if (c.rule->weight == bbg::Element::uint64) {
    c.bit_weight.resize(static_cast<size_t>(c.out.channels * words));
    for (int64_t i = 0; i < c.out.channels * per_filter; ++i) {
      float& w = c.weight[static_cast<size_t>(i)];
      w = w >= 0 ? 1.0F : -1.0F;
      const int64_t bit = i % per_filter;
      c.bit_weight[static_cast<size_t>(i / per_filter * words + bit / 64)] |= uint64_t(w > 0) << bit % 64;
    }
  }
}

Case draw_case(const KindRule& rule, int number) {
  constexpr int64_t kChannels[] = {1, 3, 8, 16, 17, 31, 32, 33, 48, 64, 96, 100, 128, 130, 320};
  const auto functions = unary_functions();
  Case c;
  c.rule = &rule, c.function = functions[static_cast<size_t>(number) % functions.size()];
  const bool conv = rule.required & bbg::kWeight;
  do {
    const bool depthwise = rule.kind == Kind::conv && draw(0, 1);
    c.groups = !conv || draw(0, 3) ? 1 : draw(1, 4);
    c.in = {kChannels[draw(0, 14)] * c.groups, draw(1, 17), draw(1, 17)};
    if (depthwise) c.groups = c.in.channels;
    c.out = c.in;
    if (c.has(bbg::kKernel)) draw_window(c), c.out.height = c.steps(0), c.out.width = c.steps(1);
    if (c.has(bbg::kSize)) c.out.height = draw(1, 5), c.out.width = draw(1, 5);
    if (c.has(bbg::kChannels)) c.out.channels = depthwise ? c.in.channels : kChannels[draw(0, 13)] * c.groups;
    if (rule.operands == 0) c.out.channels = 3 * c.in.channels;
  } while (c.out.height < 1 || c.out.width < 1 || c.in.channels > 400 || c.dilation[0] > c.in.height + 6 ||
           (!conv && (c.dilation[0] > c.in.height || c.dilation[1] > c.in.width)));
  c.images = draw(1, 3);
  c.gate = rule.operands == 2 && draw(0, 1);
  if (conv) draw_weight(c);
  if (rule.required & bbg::kIndex) {
    for (int64_t i = 0; i < c.out.channels; ++i) c.index.push_back(static_cast<int32_t>(draw(0, c.in.channels - 1)));
  }
  if ((rule.required | rule.optional) & bbg::kAndMask) {
    c.and_mask.resize(static_cast<size_t>((c.in.channels + 63) / 64));
    for (int64_t i = 0; i < c.in.channels; ++i)
      c.and_mask[static_cast<size_t>(i / 64)] |= uint64_t(draw(0, 1)) << i % 64;
  }
  return c;
}

// Operand "v" of the op's type, made of the input "x", and then the op.
void add_op(bbg_graph* graph, const Case& c) {
  bbg_op input = op_of("input", "pointwise", {"x"}, nullptr, nullptr);
  (c.rule->main == Type::real ? input.real : c.rule->main == Type::bits ? input.bits : input.bytes) = "v";
  require(bbg_graph_add(graph, &input));
  if (c.gate) {
    const bbg_op mean = op_of("mean", "adaptive_avg_pool", {"v"}, "m", nullptr);
    require(bbg_graph_add(graph, &mean));
  }
  const Names operands = c.rule->operands == 0   ? Names{"v", "v", "v"}
                         : c.rule->operands == 2 ? Names{"v", c.gate ? "m" : "v"}
                                                 : Names{"v"};
  bbg_op op =
      op_of("op", c.rule->name, operands, c.rule->real_output ? "y" : nullptr, c.rule->real_output ? nullptr : "y");
  bbg_attributes& a = op.attributes;
  for (int axis = 0; axis < 2; ++axis) {
    a.kernel[axis] = c.kernel[axis], a.stride[axis] = c.stride[axis];
    a.padding[axis] = c.padding[axis], a.dilation[axis] = c.dilation[axis];
  }
  a.groups = c.groups, a.channels = c.out.channels, a.size[0] = c.out.height, a.size[1] = c.out.width;
  a.ceil_mode = c.ceil_mode, a.count_include_pad = c.count_include_pad, a.function = c.function.c_str();
  if (c.rule->weight == bbg::Element::float32) op.weight = array(c.weight);
  if (c.rule->weight == bbg::Element::int8) op.weight = array(c.byte_weight);
  if (c.rule->weight == bbg::Element::uint64) op.weight = array(c.bit_weight);
  if (c.rule->required & bbg::kIndex) op.index = array(c.index);
  if (c.rule->optional & bbg::kAndMask) op.and_mask = array(c.and_mask);
  require(bbg_graph_add(graph, &op));
}

// The operand's numbers.
float operand_number(Type type, float x) {
  if (type == Type::bits) return x >= 0 ? 1.0F : -1.0F;
  return type == Type::bytes ? std::fmin(std::fmax(x, 0.0F), 255.0F) : x;
}

// What an output of the two parts "y" in `order` and "y" as CHW holds for one image.
std::vector<double> wanted(const Case& c, const float* image, const char* order) {
  std::vector<double> map, result;
  for (int64_t i = 0; i < c.out.numbers(); ++i) {
    const int64_t area = c.out.height * c.out.width;
    map.push_back(c.value(image, i / area, i % area / c.out.width, i % c.out.width));
  }
  const int64_t size[3] = {c.out.channels, c.out.height, c.out.width};
  int64_t axis[3], at[3];
  for (int i = 0; i < 3; ++i) axis[i] = std::strchr("CHW", order[i]) - "CHW";
  for (at[axis[0]] = 0; at[axis[0]] < size[axis[0]]; ++at[axis[0]]) {
    for (at[axis[1]] = 0; at[axis[1]] < size[axis[1]]; ++at[axis[1]]) {
      for (at[axis[2]] = 0; at[axis[2]] < size[axis[2]]; ++at[axis[2]]) {
        result.push_back(map[static_cast<size_t>(c.out.at(at[0], at[1], at[2]))]);
      }
    }
  }
  result.insert(result.end(), map.begin(), map.end());
  return result;
}

void check_op(const KindRule& rule, int number) {
  constexpr const char* kOrders[] = {"CHW", "CWH", "HCW", "HWC", "WCH", "WHC"};
  const Case c = draw_case(rule, number);
  bbg_graph* graph = nullptr;
  require(bbg_graph_new("x", 0, c.in.channels, c.in.height, c.in.width, &graph));
  add_op(graph, c);
  const char* order = kOrders[draw(0, 5)];
  const bbg_part parts[] = {{"y", order}, {"y", "CHW"}};
  require(bbg_graph_output(graph, parts, 2));

  std::vector<float> x = normal(c.images * c.in.numbers());
  for (float& v : x) v = rule.main == Type::bytes ? static_cast<float>(draw(-20, 280)) : 2 * v;  // clipped at both ends
  std::vector<float> operand = x;
  for (float& v : operand) v = operand_number(rule.main, v);
  std::vector<double> want;
  for (int64_t n = 0; n < c.images; ++n) {
    const std::vector<double> image = wanted(c, operand.data() + n * c.in.numbers(), order);
    want.insert(want.end(), image.begin(), image.end());
  }
  const int64_t numbers = 2 * c.out.numbers();
  const std::vector<float> scalar = run(graph, "scalar", 1, x, c.images, numbers);
  double largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(want[i])) want[i] = double(scalar[i]);
    largest = std::fmax(largest, std::fabs(want[i]));
  }
  const double tolerance = c.integers() ? 0 : 3e-6 * largest;
  for (const std::string& set : supported_sets()) {
    const std::vector<float> y = run(graph, set.c_str(), number % 3 + 1, x, c.images, numbers);
    for (size_t i = 0; i < y.size(); ++i) {
      if (std::fabs(double(y[i]) - want[i]) <= tolerance) continue;
      std::printf("FAILED: %s, case %d, set %s, order %s: number %d is %g, not %g\n", rule.name, number, set.c_str(),
                  order, int(i), double(y[i]), want[i]);
      std::exit(1);
    }
  }
  bbg_graph_free(graph);
}

// ---- a network of every kind against the scalar set -----------------------------------------------------------------

std::vector<uint64_t> draw_bits(int64_t rows, int64_t bits) {
  const int64_t words = (bits + 63) / 64;
  std::vector<uint64_t> result(static_cast<size_t>(rows * words));
  for (int64_t i = 0; i < rows * bits; ++i) {
    result[static_cast<size_t>(i / bits * words + i % bits / 64)] |= uint64_t(draw(0, 1)) << i % bits % 64;
  }
  return result;
}

// The kinds that a network lacks.
std::vector<const KindRule*> missing_kinds(const std::deque<bbg_op>& ops) {
  std::set<std::string> found;
  for (const bbg_op& op : ops) found.insert(op.kind);
  std::vector<const KindRule*> missing;
  for (const KindRule& rule : bbg::kKinds) {
    if (!found.count(rule.name)) missing.push_back(&rule);
  }
  return missing;
}

void check_network(int number) {
  const int64_t c = draw(1, 70), size = draw(4, 20), images = draw(1, 20);
  const auto stem = normal(c * 3 * 3 * 2), scale = normal(c), bias = normal(c), gate = normal(c), below = normal(c);
  const auto taps = normal(9 * c);
  const std::vector<float> byte_scale(static_cast<size_t>(c), 20), small(static_cast<size_t>(c), 1e-3F);
  const auto weight = draw_bits(c, 9 * c), mask = draw_bits(1, c);
  std::vector<int8_t> byte_weight;
  for (int64_t i = 0; i < c * c; ++i) byte_weight.push_back(static_cast<int8_t>(draw(-128, 127)));
  std::vector<int32_t> index;
  for (int64_t i = 0; i < 2 * c; ++i) index.push_back(static_cast<int32_t>(draw(0, 3 * c - 1)));

  std::deque<bbg_op> ops;
  const auto add = [&](const char* kind, const Names& operands, const char* real, const char* bits) -> bbg_op& {
    ops.push_back(op_of(kind, kind, operands, real, bits));
    return ops.back();
  };
  const auto window = [](bbg_op& op, int64_t kernel, int64_t stride, int64_t padding) {
    bbg_attributes& a = op.attributes;
    for (int axis = 0; axis < 2; ++axis) a.kernel[axis] = kernel, a.stride[axis] = stride, a.padding[axis] = padding;
  };
  const auto scaled = [&](bbg_op& op) {
    op.attributes.channels = c, op.epilogue[BBG_SCALE] = array(scale), op.epilogue[BBG_BIAS] = array(bias);
  };

  bbg_op& first = add("conv", {"x"}, "r0", "b0");
  window(first, 3, 1, 1), scaled(first), first.weight = array(stem);
  bbg_op& binary = add("binary_conv", {"b0"}, "r1", "b1");
  window(binary, 3, 1, 1), scaled(binary), binary.weight = array(weight), binary.shortcut = "r0", binary.low = -40;
  binary.epilogue[BBG_GATE] = array(gate), binary.epilogue[BBG_BELOW] = array(below);
  window(add("max_pool", {"r1"}, "r2", nullptr), 2, 2, 0);
  bbg_op& bit_pool = add("max_pool_bits", {"b1"}, nullptr, "b2");
  window(bit_pool, 2, 2, 0), bit_pool.and_mask = array(mask);
  bbg_op& bytes = add("pointwise", {"r2"}, "r3", nullptr);
  bytes.bytes = "u0", bytes.epilogue[BBG_BYTE_SCALE] = array(byte_scale);
  bbg_op& byte_conv = add("byte_conv", {"u0"}, "r4", nullptr);
  byte_conv.attributes.channels = c, byte_conv.weight = array(byte_weight),
  byte_conv.epilogue[BBG_SCALE] = array(small);
  byte_conv.shortcut = "r3";
  add("match_channels", {"r4"}, "r5", nullptr).attributes.channels = 2 * c;
  bbg_op& mean = add("adaptive_avg_pool", {"r5"}, "r6", nullptr);
  mean.attributes.size[0] = 2;
  bbg_op& depthwise = add("conv", {"r0"}, "d0", nullptr);
  window(depthwise, 3, 1, 1), depthwise.attributes.channels = depthwise.attributes.groups = c,
                              depthwise.weight = array(taps);
  add("layer_norm", {"d0"}, "d1", nullptr);
  window(add("avg_pool", {"d1"}, "d2", nullptr), 3, 1, 1);
  const auto functions = unary_functions();
  add("unary", {"d2"}, "d3", nullptr).attributes.function =
      functions[static_cast<size_t>(number) % functions.size()].c_str();
  add("multiply", {"d3", "d0"}, "d4", nullptr).shortcut = "d3";
  add("concat", {"d4", "d0", "d3"}, "d5", nullptr);
  bbg_op& select = add("select", {"d5"}, "d6", nullptr);
  select.attributes.channels = 2 * c, select.index = array(index);
  bbg_op& small_map = add("adaptive_avg_pool", {"d6"}, "d7", nullptr);
  small_map.attributes.size[0] = 2;
  add("multiply", {"r6", "d7"}, "y", nullptr);
  std::vector<bbg_part> parts{{"y", "HWC"}};
  std::deque<std::string> names;
  for (const KindRule* rule : missing_kinds(ops)) {  // a new kind: it reads d0 and is an output
    if (rule->main != Type::real || rule->required) require((std::string("the network lacks ") + rule->name).c_str());
    names.push_back(std::string("of ") + rule->name);
    add(rule->name, Names(static_cast<size_t>(std::max(rule->operands, 1)), "d0"), names.back().c_str(), nullptr);
    parts.push_back({names.back().c_str(), "CHW"});
  }

  bbg_graph* graph = nullptr;
  require(bbg_graph_new("x", 0, 2, size, size, &graph));
  for (bbg_op& op : ops) {
    names.push_back(std::string(op.kind) + std::to_string(names.size()));
    op.name = names.back().c_str();
    require(bbg_graph_add(graph, &op));
  }
  require(bbg_graph_output(graph, parts.data(), static_cast<int64_t>(parts.size())));
  int64_t numbers = 0;
  for (const bbg_part& part : parts) {
    int64_t shape[3];
    require(bbg_graph_shape(graph, part.value, shape));
    numbers += shape[0] * shape[1] * shape[2];
  }

  const std::vector<float> x = normal(images * 2 * size * size);
  const std::vector<float> want = run(graph, "scalar", 1, x, images, numbers);
  for (const std::string& set : supported_sets()) {
    for (int threads = 1; threads <= 3; ++threads) {
      const std::vector<float> y = run(graph, set.c_str(), threads, x, images, numbers);
      float largest = 0, difference = 0;
      for (float v : want) largest = std::fmax(largest, std::fabs(v));
      int64_t departed = 0;  // images
      for (int64_t n = 0; n < images; ++n) {
        float most = 0;
        for (int64_t i = n * numbers; i < (n + 1) * numbers; ++i) {
          most = std::fmax(most, std::fabs(y[static_cast<size_t>(i)] - want[static_cast<size_t>(i)]));
        }
        departed += most > 1e-5F * largest, difference = std::fmax(difference, most);
      }
      // Under another rounding a near-tie may fall the other way: then one image differs, or numbers do by little.
      if (difference <= 1e-2F * largest || (departed == 1 && difference <= 0.1F * largest)) continue;
      std::printf("FAILED: network %d, set %s, %d threads: off by %g of %g\n", number, set.c_str(), threads,
                  double(difference), double(largest));
      std::exit(1);
    }
  }
  bbg_graph_free(graph);
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 200;  // of binary convolutions; of others fewer
  int ops = 0;
  for (const KindRule& rule : bbg::kKinds) {
    const int some = rule.kind == Kind::binary_conv          ? cases
                     : rule.operands == 1 && rule.attributes ? cases / 3
                                                             : cases / 6;
    for (int i = 0; i < std::max(some, 5); ++i, ++ops) check_op(rule, i);
  }
  const int networks = std::max(cases / 4, 5);
  for (int i = 0; i < networks; ++i) check_network(i);
  std::printf("%d ops of %d kinds and %d networks: ok on", ops, int(std::size(bbg::kKinds)), networks);
  for (const std::string& set : supported_sets()) std::printf(" %s", set.c_str());
  std::printf("\n");
  return 0;
}
