// One op against its definition, for every kind of native/kinds.h.
#include "selftest.h"

namespace selftest {
namespace {

// The value of a kind or function that is not known here. It is compared with the scalar set alone: the Python tests
// hold every formula (src/bbg/graph/kinds.py).
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

struct Case {
  const KindRule* rule = nullptr;
  std::string function;
  Shape in{}, out{};
  int64_t images = 1, groups = 1;
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
  bool ceil_mode = false, count_include_pad = false, align_corners = false;
  bool gate = false;          // the factor is the mean of the map
  std::vector<float> weight;  // [filter][tap row][tap column][channel]
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

  // Where a result of `bilinear` lies between the rows or columns of the operand.
  double place(int64_t i, int64_t have, int64_t want) const {
    const float scale = align_corners ? (want > 1 ? float(have - 1) / float(want - 1) : 0) : float(have) / float(want);
    return align_corners ? double(scale * float(i)) : double(std::max(scale * (float(i) + 0.5F) - 0.5F, 0.0F));
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
        return (at(c, y, x) - sum) / std::sqrt(squares + double(kNumber));
      }
      case Kind::softmax:
      case Kind::log_softmax:
        for (int64_t i = 0; i < in.channels; ++i) most = std::max(most, at(i, y, x));
        for (int64_t i = 0; i < in.channels; ++i) sum += std::exp(at(i, y, x) - most);
        if (rule->kind == Kind::log_softmax) return at(c, y, x) - most - std::log(sum);
        return std::exp(at(c, y, x) - most) / sum;
      case Kind::max_channels:
        for (int64_t i = c % in.channels; i < in.channels; i += out.channels) most = std::max(most, at(i, y, x));
        return most;
      case Kind::bilinear: {
        const double iy = place(y, in.height, out.height), ix = place(x, in.width, out.width);
        const int64_t top = std::min(int64_t(iy), in.height - 1), left = std::min(int64_t(ix), in.width - 1);
        const int64_t bottom = std::min(top + 1, in.height - 1), right = std::min(left + 1, in.width - 1);
        const double v = std::min(iy - double(top), 1.0), h = std::min(ix - double(left), 1.0);
        return (1 - v) * ((1 - h) * at(c, top, left) + h * at(c, top, right)) +
               v * ((1 - h) * at(c, bottom, left) + h * at(c, bottom, right));
      }
      case Kind::take: return at(c, index[size_t(y)], index[size_t(out.height + x)]);
      case Kind::depth_to_space: {
        const int64_t phase = y % stride[0] * stride[1] + x % stride[1];
        return at(phase * out.channels + c, y / stride[0], x / stride[1]);
      }
      default: return kUnknown;
    }
  }

  double unary(double v) const {
    if (function == "tanh") return std::tanh(v);
    if (function == "sigmoid") return 1 / (1 + std::exp(-v));
    if (function == "silu") return v / (1 + std::exp(-v));
    if (function == "hardswish") return v * std::min(1.0, std::max(0.0, v / 6 + 0.5));
    if (function == "elu") return v >= 0 ? v : std::expm1(v);
    if (function == "mish") return v * std::tanh(std::log1p(std::exp(v)));
    if (function == "exp") return std::exp(std::min(v, 88.0));
    if (function == "sqrt") return std::sqrt(std::max(v, 0.0));
    if (function == "log") return v > 0 ? std::log(v) : kUnknown;
    if (function == "log1p") return v > -1 ? std::log1p(v) : kUnknown;
    if (function == "softplus") return std::max(v, 0.0) + std::log1p(std::exp(-std::abs(v)));
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

void draw_phases(Case& c) {
  for (int64_t& stride : c.stride) stride = draw(1, 3);
  c.out = {draw(1, 40), c.in.height * c.stride[0], c.in.width * c.stride[1]};
  c.in.channels = c.out.channels * c.stride[0] * c.stride[1];
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
    const bool depthwise = (rule.kind == Kind::conv || rule.kind == Kind::byte_conv) && draw(0, 1);
    c.groups = !conv || draw(0, 3) ? 1 : draw(1, 4);
    c.in = {kChannels[draw(0, 14)] * c.groups, draw(1, 17), draw(1, 17)};
    if (depthwise) c.groups = c.in.channels;
    c.out = c.in;
    if (c.has(bbg::kKernel)) draw_window(c), c.out.height = c.steps(0), c.out.width = c.steps(1);
    if (c.has(bbg::kStride) && !c.has(bbg::kKernel)) draw_phases(c);
    c.align_corners = c.has(bbg::kAlignCorners) && draw(0, 1);
    if (c.has(bbg::kSize)) c.out.height = draw(1, 5), c.out.width = draw(1, 5);
    if (c.has(bbg::kChannels)) c.out.channels = depthwise ? c.in.channels : kChannels[draw(0, 13)] * c.groups;
    if (rule.operands == 0) c.out.channels = 3 * c.in.channels;
  } while (c.out.height < 1 || c.out.width < 1 || c.in.channels > 400 || c.dilation[0] > c.in.height + 6 ||
           (!conv && (c.dilation[0] > c.in.height || c.dilation[1] > c.in.width)));
  c.images = draw(1, 3);
  c.gate = rule.operands == 2 && draw(0, 1);
  if (conv) draw_weight(c);
  if (rule.required & bbg::kIndex) {
    const auto add = [&](int64_t count, int64_t below) {
      for (int64_t i = 0; i < count; ++i) c.index.push_back(static_cast<int32_t>(draw(0, below - 1)));
    };
    if (c.has(bbg::kSize)) add(c.out.height, c.in.height), add(c.out.width, c.in.width);
    if (c.has(bbg::kChannels)) add(c.out.channels, c.in.channels);
  }
  if (rule.required & bbg::kAndMask) {
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
  a.ceil_mode = c.ceil_mode, a.count_include_pad = c.count_include_pad;
  a.align_corners = c.align_corners, a.function = c.function.c_str();
  if (c.rule->weight == bbg::Element::float32) op.weight = array(c.weight);
  if (c.rule->weight == bbg::Element::int8) op.weight = array(c.byte_weight);
  if (c.rule->weight == bbg::Element::uint64) op.weight = array(c.bit_weight);
  if (c.rule->required & bbg::kIndex) op.index = array(c.index);
  if (c.rule->required & bbg::kAndMask) op.and_mask = array(c.and_mask);
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

}  // namespace

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
    if (std::isfinite(want[i])) largest = std::fmax(largest, std::fabs(want[i]));
  }
  const double tolerance = c.integers() ? 0 : 3e-6 * largest;
  for (const std::string& set : supported_sets()) {
    const std::vector<float> y = run(graph, set.c_str(), number % 3 + 1, x, c.images, numbers);
    for (size_t i = 0; i < y.size(); ++i) {
      if (std::fabs(double(y[i]) - want[i]) <= tolerance || (std::isnan(y[i]) && std::isnan(want[i]))) continue;
      std::printf("FAILED: %s, case %d, set %s, order %s: number %d is %g, not %g\n", rule.name, number, set.c_str(),
                  order, int(i), double(y[i]), want[i]);
      std::exit(1);
    }
  }
  bbg_graph_free(graph);
}

}  // namespace selftest
