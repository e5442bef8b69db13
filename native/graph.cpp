#include "graph.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace bbg {
namespace {

constexpr int64_t kLimit = int64_t{1} << 31;  // numbers in a value or a weight
constexpr int64_t kPairLimit = 65535;

constexpr int64_t kByteFanIn = 65535;  // products of bytes that 32 bits hold: 255 * 128 * 65535 < 2^31

constexpr const char* kKinds[] = {"conv",     "byte_conv",         "binary_conv",    "max_pool",  "avg_pool",
                                  "adaptive_avg_pool", "match_channels", "pointwise", "concat",   "select",
                                  "multiply", "tanh",              "sigmoid",        "silu",      "hardswish",
                                  "gelu",     "layer_norm",        "max_pool_bits"};
constexpr const char* kTypes[] = {"real", "bits", "bytes"};
constexpr const char* kRows[BBG_ROWS] = {"scale", "bias",   "shift", "gate",       "above",
                                         "below", "offset", "sign",  "byte_scale", "byte_bias"};

bool is_conv(Kind kind) { return kind == Kind::conv || kind == Kind::byte_conv || kind == Kind::binary_conv; }

Type operand(Kind kind) {
  if (kind == Kind::binary_conv || kind == Kind::max_pool_bits) return Type::bits;
  return kind == Kind::byte_conv ? Type::bytes : Type::real;
}

std::string text(int64_t n) { return std::to_string(n); }

void require(bool holds, const std::string& sentence) {
  if (!holds) throw Refusal(sentence);
}

// Product of numbers in [0, 2^31], each checked, so that nothing overflows on the way.
int64_t product(std::initializer_list<int64_t> factors, const std::string& what) {
  int64_t result = 1;
  for (int64_t f : factors) {
    require(f >= 0 && f < kLimit && (f == 0 || result <= (kLimit - 1) / f), what + ": the product must be below 2^31");
    result *= f;
  }
  return result;
}

void check_shape(int64_t channels, int64_t height, int64_t width, const std::string& what) {
  const std::string shape = what + " has shape " + text(channels) + " x " + text(height) + " x " + text(width);
  require(channels >= 1 && height >= 1 && width >= 1, shape + "; sizes must be at least 1");
  product({channels, height, width}, shape);
}

template <class T>
Tensor<T> tensor(const bbg_array& array, int64_t count, const std::string& what) {
  if (!array.data) return {};
  require(array.count == size_t(count), what + " has " + text(int64_t(array.count)) + " elements, not " + text(count));
  return {static_cast<const T*>(array.data), count};
}

Tensor<float> finite(const bbg_array& array, int64_t count, const std::string& what) {
  const auto result = tensor<float>(array, count, what);
  for (int64_t i = 0; i < result.count; ++i) require(std::isfinite(result[i]), what + " holds a number that is not finite");
  return result;
}

Tensor<uint64_t> packed(const bbg_array& array, int64_t rows, int64_t bits, const std::string& what) {
  const int64_t words = (bits + 63) / 64;
  const auto result = tensor<uint64_t>(array, rows * words, what);
  for (int64_t r = 0; result && bits % 64 && r < rows; ++r) {
    require((result[r * words + words - 1] >> bits % 64) == 0, what + " has bits set behind the last");
  }
  return result;
}

Pair pair(const int64_t (&given)[2], int64_t least, const std::string& what) {
  for (int64_t v : given) {
    require(v >= least && v <= kPairLimit,
            what + " is " + text(v) + "; allowed are " + text(least) + " to " + text(kPairLimit));
  }
  return {given[0], given[1]};
}

// PyTorch's number of windows.
int64_t steps(const Op& op, int axis, int64_t size) {
  const int64_t span = size + 2 * op.padding[axis] - op.dilation[axis] * (op.kernel[axis] - 1) - 1;
  const int64_t stride = op.stride[axis];
  if (span < 0 && !op.ceil_mode) return 0;
  if (!op.ceil_mode) return span / stride + 1;
  const int64_t count = span >= 0 ? (span + stride - 1) / stride + 1 : -(-span / stride) + 1;
  return (count - 1) * stride >= size + op.padding[axis] ? count - 1 : count;  // no window starts behind the map
}

// Channels of the result of an op of several operands, whose shapes must fit each other.
int64_t joined_channels(const Op& op, const std::vector<Value>& values) {
  const Value& main = values[size_t(op.input())];
  int64_t sum = 0;
  for (int v : op.operands) {
    const Value& o = values[size_t(v)];
    const bool same_map = o.height == main.height && o.width == main.width;
    require(op.kind != Kind::concat || same_map, op.name + ": the maps of the operands must be equal");
    const bool fits = o.channels == main.channels && (same_map || (o.height == 1 && o.width == 1));
    require(op.kind != Kind::multiply || fits, op.name + ": the factor must have the shape of the main operand, or C, 1, 1");
    sum += o.channels;
  }
  return op.kind == Kind::concat ? sum : main.channels;
}

// Shape of the result of `op` on `main`; fills the attributes that the kind has.
Value infer(Op& op, const bbg_op& d, const Value& main) {
  Value result{"", Type::real, main.channels, main.height, main.width};
  const std::string& n = op.name;
  const bool conv = is_conv(op.kind);
  const bool dilated_pool = op.kind == Kind::max_pool || op.kind == Kind::max_pool_bits;
  if (conv || dilated_pool || op.kind == Kind::avg_pool) {
    op.kernel = pair(d.kernel, 1, n + ": kernel");
    op.stride = pair(d.stride, 1, n + ": stride");
    op.padding = pair(d.padding, 0, n + ": padding");
    if (op.kind != Kind::avg_pool) op.dilation = pair(d.dilation, 1, n + ": dilation");
    if (!conv) op.ceil_mode = d.ceil_mode != 0;
    op.count_include_pad = d.count_include_pad != 0;
    const int64_t size[2] = {main.height, main.width};
    for (int axis = 0; axis < 2 && !conv; ++axis) {
      require(2 * op.padding[axis] <= op.kernel[axis], n + ": padding must be at most half the kernel");
      require(op.dilation[axis] <= size[axis], n + ": dilation must be at most the map");
    }
    result.height = steps(op, 0, main.height);
    result.width = steps(op, 1, main.width);
  }
  if (op.kind == Kind::layer_norm) {
    op.eps = d.eps;
    require(std::isfinite(op.eps) && op.eps >= std::numeric_limits<float>::min(), n + ": eps must be a positive number");
  }
  if (conv || op.kind == Kind::match_channels || op.kind == Kind::select) {
    require(d.channels >= 1 && d.channels < kLimit, n + ": channels is " + text(d.channels) + "; it must be 1 to 2^31 - 1");
    result.channels = d.channels;
  }
  if (conv) {
    op.groups = d.groups;
    require(op.groups >= 1 && main.channels % op.groups == 0 && result.channels % op.groups == 0,
            n + ": groups is " + text(op.groups) + "; it must divide the input and output channels");
  }
  if (op.kind == Kind::adaptive_avg_pool) {
    const Pair size = pair(d.size, 1, n + ": size");
    result.height = size[0], result.width = size[1];
  }
  check_shape(result.channels, result.height, result.width, n + ": the result");
  return result;
}

void take_tensors(Op& op, const bbg_op& d, const Value& main, int64_t channels) {
  const std::string& n = op.name;
  for (int r = 0; r < BBG_ROWS; ++r) op.rows[size_t(r)] = finite(d.rows[r], channels, n + ": epilogue row " + kRows[r]);
  if (is_conv(op.kind)) {
    const int64_t taps = op.kernel[0] * op.kernel[1], inputs = main.channels / op.groups;
    const int64_t weights = product({channels, op.kernel[0], op.kernel[1], inputs}, n + ": the weight");
    require(d.weight.data != nullptr, n + ": the weight is missing");
    if (op.kind == Kind::conv) op.real_weight = finite(d.weight, weights, n + ": the weight");
    if (op.kind == Kind::byte_conv) {
      require(taps * inputs <= kByteFanIn, n + ": too many products per number for 32 bits");
      op.byte_weight = tensor<int8_t>(d.weight, weights, n + ": the weight");
    }
    if (op.kind == Kind::binary_conv) {
      op.bit_weight = packed(d.weight, channels, taps * inputs, n + ": the weight");
      op.threshold = tensor<int32_t>(d.threshold, channels, n + ": the threshold");
    }
    if (op.kind != Kind::conv) op.tap_bias = finite(d.tap_bias, taps * channels, n + ": tap_bias");
  }
  if (op.kind == Kind::select) {
    op.index = tensor<int32_t>(d.index, channels, n + ": the index");
    require(bool(op.index), n + ": the index is missing");
    for (int64_t c = 0; c < channels; ++c) {
      require(op.index[c] >= 0 && op.index[c] < main.channels, n + ": the index reaches beyond the operand's channels");
    }
  }
  if (op.kind == Kind::max_pool_bits) op.and_mask = packed(d.and_mask, 1, channels, n + ": and_mask");
}

void check_epilogue(const Op& op) {
  const std::string& n = op.name;
  bool plain = op.real == kNone && op.bytes == kNone && op.shortcut == kNone && !op.clipped();
  for (const auto& row : op.rows) plain = plain && !row;
  require(!op.rows[BBG_GATE] || op.shortcut != kNone, n + ": a gate needs a shortcut");
  require(!op.rows[BBG_SHIFT] || op.kind == Kind::binary_conv, n + ": only a binary_conv has a shift");
  require(op.kind != Kind::max_pool_bits || plain, n + ": writes bits only, without an epilogue");
  require(!op.threshold || (plain && !op.tap_bias), n + ": a threshold excludes an epilogue and a real result");
  require(op.low <= op.high, n + ": the clip must rise");
}

}  // namespace

bool Op::clipped() const {
  constexpr float kOpen = std::numeric_limits<float>::infinity();
  return low != -kOpen || high != kOpen;
}

Graph::Graph(const char* input, Type type, int64_t channels, int64_t height, int64_t width) {
  require(input != nullptr, "the input needs a name");
  check_shape(channels, height, width, "the input");
  values.push_back({input, type, channels, height, width});
}

int Graph::find(const char* value) const {
  for (size_t i = 0; value && i < values.size(); ++i) {
    if (values[i].name == value) return int(i);
  }
  return kNone;
}

void Graph::add(const bbg_op& d) {
  require(d.name && d.kind, "an op needs a name and a kind");
  Op op;
  op.name = d.name;
  const std::string& n = op.name;
  int kind = 0;
  while (kind < int(std::size(kKinds)) && std::strcmp(kKinds[kind], d.kind) != 0) ++kind;
  require(kind < int(std::size(kKinds)), n + ": unknown kind '" + d.kind + "'");
  op.kind = Kind(kind);

  const bool any_number = op.kind == Kind::concat;
  const int64_t least = any_number || op.kind == Kind::multiply ? 2 : 1;
  require(d.operand_count >= least && d.operand_count < kLimit && (any_number || d.operand_count == least),
          n + ": has " + text(d.operand_count) + " operands, not " + text(least) + (any_number ? " or more" : ""));
  require(d.operands != nullptr, n + ": its operands are missing");
  for (int64_t i = 0; i < d.operand_count; ++i) {
    const char* name = d.operands[i];
    op.operands.push_back(find(name));
    require(op.operands.back() != kNone, n + ": reads '" + (name ? name : "") + "', which no earlier op writes");
    const Type type = values[size_t(op.operands.back())].type;
    require(type == operand(op.kind), n + ": its operands must be " + kTypes[int(operand(op.kind))]);
  }
  Value main = values[size_t(op.input())];
  main.channels = joined_channels(op, values);

  Value result = infer(op, d, main);
  if (d.shortcut) {
    require(!any_number, n + ": has no shortcut");
    op.shortcut = find(d.shortcut);
    require(op.shortcut != kNone, n + ": reads '" + d.shortcut + "', which no earlier op writes");
    const Value& s = values[size_t(op.shortcut)];
    require(s.type == Type::real && s.channels == result.channels && s.height == result.height && s.width == result.width,
            n + ": the shortcut must be real and have the shape of the result");
  }
  op.low = d.low, op.high = d.high;
  take_tensors(op, d, main, result.channels);

  result.writer = int(ops.size());
  std::vector<Value> written;
  const auto write = [&](const char* name, Type type) {
    if (!name) return kNone;
    const bool fresh = std::none_of(written.begin(), written.end(), [&](const Value& v) { return v.name == name; });
    require(fresh && find(name) == kNone, n + ": writes a value that is written already");
    result.name = name;
    result.type = type;
    written.push_back(result);
    return int(values.size() + written.size()) - 1;
  };
  op.real = write(d.real, Type::real);
  op.bits = write(d.bits, Type::bits);
  op.bytes = write(d.bytes, Type::bytes);
  require(!written.empty(), n + ": writes nothing");
  check_epilogue(op);
  values.insert(values.end(), written.begin(), written.end());
  ops.push_back(std::move(op));
}

void Graph::add_output(const char* value) {
  const int found = find(value);
  require(found > 0, std::string("output '") + (value ? value : "") + "' is not written by an op");
  outputs.push_back(found);
}

}  // namespace bbg
