#include "graph.h"

#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

#include "kernels/kernels.h"

namespace bbg {
namespace {

constexpr int64_t kLimit = int64_t{1} << 31;  // numbers in a value, a weight or an output
constexpr int64_t kPairLimit = 65535;
constexpr int64_t kByteFanIn = 65535;     // products of bytes that 32 bits hold: 255 * 128 * 65535 < 2^31
constexpr float kTapBiasLimit = 1 << 30;  // their sums are differences of sums in double, whose last bit is 2^-23 then
constexpr const char* kAxes = "CHW";

std::string text(int64_t n) { return std::to_string(n); }

void require(bool holds, const std::string& sentence) {
  if (!holds) throw InvalidArgument(sentence);
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

void check_shape(const Shape& s, const std::string& what) {
  const std::string shape = what + " has shape " + text(s.channels) + " x " + text(s.height) + " x " + text(s.width);
  require(s.channels >= 1 && s.height >= 1 && s.width >= 1, shape + "; sizes must be at least 1");
  product({s.channels, s.height, s.width}, shape);
}

// ---- tensors --------------------------------------------------------------------------------------------------------

template <class T>
Tensor<T> tensor(const bbg_array& array, int64_t count, const std::string& what) {
  if (!array.data) return {};
  require(array.count == size_t(count), what + " has " + text(int64_t(array.count)) + " elements, not " + text(count));
  return {static_cast<const T*>(array.data), count};
}

Tensor<float> finite(const bbg_array& array, int64_t count, const std::string& what) {
  const auto result = tensor<float>(array, count, what);
  for (int64_t i = 0; i < result.count; ++i) {
    require(std::isfinite(result[i]), what + " holds a number that is not finite");
  }
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

void take_weight(Op& op, const bbg_array& weight, int64_t inputs, int64_t channels) {
  const std::string what = op.name + ": the weight";
  const int64_t per_filter = op.taps() * inputs, count = product({channels, op.kernel[0], op.kernel[1], inputs}, what);
  switch (op.rule->weight) {
    case Element::float32: op.float_weight = finite(weight, count, what); break;
    case Element::int8:
      require(per_filter <= kByteFanIn, op.name + ": too many products per number for 32 bits");
      op.byte_weight = tensor<int8_t>(weight, count, what);
      break;
    default: op.bit_weight = packed(weight, channels, per_filter, what);
  }
}

void take_tensors(Op& op, const bbg_op& d, const Value& main, int64_t channels) {
  const std::string& n = op.name;
  for (const TensorRule& rule : kTensors) {
    const bool given = (d.*rule.field).data != nullptr, required = op.rule->required & rule.bit;
    const std::string what = n + ": " + rule.name;
    require(!given || required || (op.rule->optional & rule.bit), what + " does not belong to a " + op.rule->name);
    require(given || !required, n + ": the " + rule.name + " is missing");
  }
  for (int r = 0; r < BBG_PARAMETERS; ++r) {
    const std::string what = n + ": epilogue parameter " + kParameters[r];
    const bool given = d.epilogue[r].data != nullptr;
    require(!given || (op.rule->epilogue >> r & 1), what + " does not belong to a " + op.rule->name);
    op.epilogue[size_t(r)] = finite(d.epilogue[r], channels, what);
  }
  if (op.is_conv()) take_weight(op, d.weight, main.channels / op.groups, channels);
  op.acc_threshold = tensor<int32_t>(d.acc_threshold, channels, n + ": the acc_threshold");
  op.tap_bias = finite(d.tap_bias, op.taps() * channels, n + ": tap_bias");
  for (int64_t i = 0; i < op.tap_bias.count; ++i) {
    require(std::abs(op.tap_bias[i]) < kTapBiasLimit, n + ": tap_bias must be below 2^30");
  }
  op.and_mask = packed(d.and_mask, 1, channels, n + ": and_mask");
  const bool of_map = op.has(kSize);  // of `take`: rows, and columns behind them
  op.index = tensor<int32_t>(d.index, of_map ? op.size[0] + op.size[1] : channels, n + ": the index");
  for (int64_t i = 0; i < op.index.count; ++i) {
    const int64_t most = !of_map ? main.channels : i < op.size[0] ? main.height : main.width;
    require(op.index[i] >= 0 && op.index[i] < most,
            n + ": the index reaches beyond the operand's " + (of_map ? "map" : "channels"));
  }
}

// ---- attributes and shapes ------------------------------------------------------------------------------------------

int function_named(const char* name, const std::string& op) {
  const Kernels& kernels = *kernels_scalar();
  std::string known;
  for (int i = 0; i < kernels.function_count; ++i) {
    if (name && !std::strcmp(kernels.functions[i].name, name)) return i;
    known += (i ? ", " : "") + std::string(kernels.functions[i].name);
  }
  throw InvalidArgument(op + ": function is '" + (name ? name : "") + "'; allowed are " + known);
}

// An integer, or each of a pair.
void check_integer(int64_t given, int64_t least, int64_t most, const std::string& what) {
  require(given >= least && given <= most,
          what + " is " + text(given) + "; allowed are " + text(least) + " to " + text(most));
}

// Of the given attributes those that the kind has; the others are neutral.
void take_attributes(Op& op, const bbg_attributes& given) {
  bbg_attributes& to = op;
  to = {};
  for (const Attribute& a : kAttributes) {
    const std::string what = op.name + ": " + a.name;
    const bool has = op.has(a.bit);
    for (int axis = 0; a.pair && axis < 2; ++axis) {
      (to.*a.pair)[axis] = has ? (given.*a.pair)[axis] : a.least;
      check_integer((to.*a.pair)[axis], a.least, kPairLimit, what);
    }
    if (a.integer) {
      to.*a.integer = has ? given.*a.integer : a.least;
      check_integer(to.*a.integer, a.least, kLimit - 1, what);
    }
    if (a.boolean) to.*a.boolean = has && given.*a.boolean != 0;
    if (a.number && has) {
      const float value = to.*a.number = given.*a.number;
      const bool positive = value >= std::numeric_limits<float>::min();
      require(std::isfinite(value) && (a.least < 1 || positive),
              what + " must be a " + (a.least < 1 ? "finite" : "positive") + " number");
    }
  }
  if (op.has(kFunction)) op.function_index = function_named(given.function, op.name);
}

// PyTorch's number of windows.
int64_t window_count(const Op& op, int axis, int64_t size) {
  const int64_t span = size + 2 * op.padding[axis] - op.dilation[axis] * (op.kernel[axis] - 1) - 1;
  const int64_t stride = op.stride[axis];
  if (span < 0 && !op.ceil_mode) return 0;
  if (!op.ceil_mode) return span / stride + 1;
  const int64_t count = span >= 0 ? (span + stride - 1) / stride + 1 : -(-span / stride) + 1;
  return (count - 1) * stride >= size + op.padding[axis] ? count - 1 : count;  // no window starts behind the map
}

// Every window of a pool must have a tap inside the map.
void check_pool(const Op& op, const Shape& main) {
  const int64_t size[2] = {main.height, main.width};
  for (int axis = 0; axis < 2; ++axis) {
    require(2 * op.padding[axis] <= op.kernel[axis], op.name + ": padding must be at most half the kernel");
    require(op.dilation[axis] <= size[axis], op.name + ": dilation must be at most the map");
  }
}

// Shape of what an op of several operands computes before its epilogue; their shapes must fit each other.
Shape joined_shape(const Op& op, const std::vector<Value>& values) {
  Shape joined = values[size_t(op.input())];
  for (size_t i = 1; i < op.operands.size(); ++i) {
    const Value& o = values[size_t(op.operands[i])];
    const bool same_map = o.height == joined.height && o.width == joined.width;
    if (op.kind() == Kind::concat) {
      require(same_map, op.name + ": the maps of the operands must be equal");
      joined.channels += o.channels;
    } else {
      const bool fits = o.channels == joined.channels && (same_map || (o.height == 1 && o.width == 1));
      require(fits, op.name + ": the factor must have the shape of the main operand, or C, 1, 1");
    }
  }
  return joined;
}

Shape result_shape(const Op& op, const Shape& main) {
  Shape result = main;
  const std::string& n = op.name;
  if (op.has(kKernel)) {
    if (!op.is_conv()) check_pool(op, main);
    result.height = window_count(op, 0, main.height);
    result.width = window_count(op, 1, main.width);
  }
  if (op.has(kStride) && !op.has(kKernel)) {
    const int64_t phases = op.stride[0] * op.stride[1];
    require(main.channels % phases == 0, n + ": the product of its stride must divide the operand's channels");
    result = {main.channels / phases, main.height * op.stride[0], main.width * op.stride[1]};
  }
  if (op.has(kSize)) result.height = op.size[0], result.width = op.size[1];
  if (op.has(kChannels)) result.channels = op.channels;
  if (op.has(kGroups)) {
    require(main.channels % op.groups == 0 && result.channels % op.groups == 0,
            n + ": groups is " + text(op.groups) + "; it must divide the input and output channels");
  }
  check_shape(result, n + ": the result");
  return result;
}

void check_epilogue(const Op& op) {
  const std::string& n = op.name;
  bool plain = op.real == kNone && op.bytes == kNone && op.shortcut == kNone && !op.is_clipped();
  for (const auto& parameter : op.epilogue) plain = plain && !parameter;
  require(!op.epilogue[BBG_GATE] || op.shortcut != kNone, n + ": a gate needs a shortcut");
  require(op.rule->real_output || plain, n + ": writes bits only, without an epilogue");
  require(!op.acc_threshold || (plain && !op.tap_bias),
          n + ": an acc_threshold excludes an epilogue and a real result");
  require(op.low <= op.high, n + ": the clip must rise");
}

const KindRule& rule_named(const char* name, const std::string& op) {
  const auto found = std::find_if(std::begin(kKinds), std::end(kKinds),
                                  [&](const KindRule& rule) { return !std::strcmp(rule.name, name); });
  require(found != std::end(kKinds), op + ": unknown kind '" + name + "'");
  return *found;
}

std::array<int, 3> axis_order(const char* order, const std::string& value) {
  std::array<int, 3> axes{};
  const std::string given = order ? order : "";
  require(std::is_permutation(given.begin(), given.end(), kAxes, kAxes + 3),
          "output '" + value + "' has the order '" + given + "'; allowed are the permutations of CHW");
  for (size_t i = 0; i < axes.size(); ++i) axes[i] = int(std::strchr(kAxes, given[i]) - kAxes);
  return axes;
}

}  // namespace

bool Op::is_clipped() const {
  constexpr float kOpen = std::numeric_limits<float>::infinity();
  return low != -kOpen || high != kOpen;
}

Graph::Graph(const char* input, Type type, const Shape& shape) {
  require(input != nullptr, "the input needs a name");
  check_shape(shape, "the input");
  values.emplace_back();
  static_cast<Shape&>(values[0]) = shape;
  values[0].name = input, values[0].type = type;
  named_[input] = 0;
}

int Graph::find(const char* value) const {
  const auto found = value ? named_.find(value) : named_.end();
  return found == named_.end() ? kNone : found->second;
}

void Graph::set_operands(size_t op, std::vector<int> operands) {
  for (int v : ops[op].operands) {
    std::vector<int>& readers = values[size_t(v)].readers;
    readers.erase(std::find(readers.begin(), readers.end(), int(op)));
  }
  for (int v : operands) values[size_t(v)].readers.push_back(int(op));
  ops[op].operands = std::move(operands);
}

void Graph::add(const bbg_op& d) {
  require(d.name && d.kind, "an op needs a name and a kind");
  Op op;
  op.name = d.name;
  op.rule = &rule_named(d.kind, op.name);
  const std::string& n = op.name;
  const auto read = [&](const char* name) {
    const int value = find(name);
    require(value != kNone, n + ": reads '" + (name ? name : "") + "', which no earlier op writes");
    return value;
  };

  const bool any_number = op.rule->operands == 0;
  const int64_t least = any_number ? 2 : op.rule->operands;
  require(d.operand_count >= least && d.operand_count < kLimit && (any_number || d.operand_count == least),
          n + ": has " + text(d.operand_count) + " operands, not " + text(least) + (any_number ? " or more" : ""));
  require(d.operands != nullptr, n + ": its operands are missing");
  for (int64_t i = 0; i < d.operand_count; ++i) {
    op.operands.push_back(read(d.operands[i]));
    const Type type = values[size_t(op.operands.back())].type;
    require(type == op.rule->main, n + ": its operands must be " + kTypes[int(op.rule->main)]);
  }
  const Value& main = values[size_t(op.input())];
  take_attributes(op, d.attributes);
  Value result;
  static_cast<Shape&>(result) = result_shape(op, joined_shape(op, values));

  if (d.shortcut) {
    require(op.rule->shortcut, n + ": has no shortcut");
    op.shortcut = read(d.shortcut);
    const Value& s = values[size_t(op.shortcut)];
    const bool bytes = s.type == Type::bytes && op.kind() == Kind::byte_conv;
    require(s.type == Type::real || bytes, n + ": the shortcut must be real, or the bytes of a byte_conv");
    require(s == result, n + ": the shortcut must have the shape of the result");
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
  for (const Value& value : written) {
    named_[value.name] = int(values.size());
    values.push_back(value);
  }
  for (int v : op.operands) values[size_t(v)].readers.push_back(int(ops.size()));
  if (op.shortcut != kNone) ++values[size_t(op.shortcut)].shortcuts;
  ops.push_back(std::move(op));
}

void Graph::add_output(const bbg_part* parts, int64_t count) {
  require(parts && count >= 1, "an output needs at least one part");
  Output output{{}, 0};
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = parts[i].value ? parts[i].value : "";
    const int value = find(parts[i].value);
    require(value > 0, "output '" + name + "' is not written by an op");
    output.parts.push_back({value, axis_order(parts[i].order, name)});
    values[size_t(value)].is_output = true;
    output.numbers += values[size_t(value)].numbers();
    require(output.numbers < kLimit, "an output with '" + name + "': its numbers per image must be below 2^31");
  }
  outputs.push_back(std::move(output));
}

std::vector<int> Graph::output_values() const {
  std::vector<int> result;
  for (const Output& output : outputs) {
    for (const Part& part : output.parts) result.push_back(part.value);
  }
  return result;
}

}  // namespace bbg
