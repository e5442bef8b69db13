#include "plan/layout.h"

#include <limits>
#include <numeric>

#include "lower/lower.h"

namespace bbg {

void* Memory::allocate(int64_t count, int64_t size, bool zeroed) {
  if (count > kMemoryLimit / size) throw Refusal("the network needs more than 32 GiB of memory");
  const int64_t bytes = round_up(std::max<int64_t>(count * size, 1), 64);
  void* p = std::aligned_alloc(64, size_t(bytes));
  if (!p) throw Refusal("there is no memory for " + std::to_string(bytes) + " bytes");
  blocks_.emplace_back(p);
  bytes_ += bytes;
  if (zeroed) std::fill_n(static_cast<char*>(p), bytes, char(0));
  return p;
}

Taps valid_taps(const Op& op, int axis, int64_t position, int64_t size) {
  const int64_t start = position * op.stride[axis] - op.padding[axis], dilation = op.dilation[axis];
  const int64_t first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int64_t end = start < size ? std::min(op.kernel[axis], (size - 1 - start) / dilation + 1) : 0;
  return end > first ? Taps{first, end - first} : Taps{0, 0};
}

Epilogue Lowering::epilogue() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto& rows = op_.rows;
  Epilogue e{};
  e.scale = padded(rows[BBG_SCALE], 1.0f, 0.0f);
  e.bias = padded(rows[BBG_BIAS], 0.0f, 0.0f);
  e.gate = padded(rows[BBG_GATE], 1.0f, 0.0f);
  e.sign = padded(rows[BBG_SIGN], 0.0f, kInfinity);
  e.byte_scale = padded(rows[BBG_BYTE_SCALE], 1.0f, 0.0f);
  e.byte_bias = padded(rows[BBG_BYTE_BIAS], 0.0f, 0.0f);
  if (rows[BBG_SHIFT]) {
    e.shift = padded(rows[BBG_SHIFT], 0.0f, 0.0f);
    e.window_sum = reinterpret_cast<float*>(scratch_);
    int32_t* group = memory_.make<int32_t>(padded_);
    for (int64_t c = 0; c < out_.channels; ++c) group[c] = int32_t(group_of(c));
    e.group = group;
  }
  if (rows[BBG_ABOVE] || rows[BBG_BELOW] || rows[BBG_OFFSET]) {
    e.above = padded(rows[BBG_ABOVE], 1.0f, 1.0f);
    e.below = padded(rows[BBG_BELOW], 1.0f, 1.0f);
    e.offset = padded(rows[BBG_OFFSET], 0.0f, 0.0f);
  }
  if (op_.threshold) {
    constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
    e.threshold = padded(op_.threshold, kNever, kNever);
  }
  e.low = op_.low, e.high = op_.high, e.clip = op_.clipped();
  e.groups = int32_t(op_.groups);
  e.shortcut = map(op_.shortcut), e.real = map(op_.real), e.bits = map(op_.bits), e.bytes = map(op_.bytes);
  e.channels = int32_t(channels_), e.height = int32_t(out_.height), e.width = int32_t(out_.width);
  return e;
}

namespace {

// ---- S: the sum of the +-1 inputs of a window, where weights have a shift -----------------------------------------

struct WindowSum {
  Map input;
  const Window *rows, *cols;
  int64_t dilation_y, dilation_x, inputs;  // inputs: channels of a group
  Epilogue out;
  float* sums;
};

int64_t ones_between(const uint8_t* pixel, int64_t from, int64_t to) {
  int64_t count = 0;
  for (; from < to && from % 8; ++from) count += pixel[from / 8] >> from % 8 & 1;
  for (; from + 8 <= to; from += 8) count += __builtin_popcount(pixel[from / 8]);
  for (; from < to; ++from) count += pixel[from / 8] >> from % 8 & 1;
  return count;
}

void window_sums(const void* args, int64_t, int64_t begin, int64_t end, int64_t) {
  const WindowSum& k = *static_cast<const WindowSum*>(args);
  const Epilogue& e = k.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    const Window& rows = k.rows[y];
    for (int64_t x = 0; x < e.width; ++x) {
      const Window& cols = k.cols[x];
      for (int64_t g = 0; g < e.groups; ++g) {
        int64_t ones = 0;
        for (int64_t i = 0; i < rows.count; ++i) {
          for (int64_t j = 0; j < cols.count; ++j) {
            const uint8_t* pixel = k.input.data + n * k.input.image + (rows.begin + i * k.dilation_y) * k.input.row +
                                   (cols.begin + j * k.dilation_x) * k.input.pixel;
            ones += ones_between(pixel, g * k.inputs, (g + 1) * k.inputs);
          }
        }
        const int64_t sum = 2 * ones - int64_t(rows.count) * cols.count * k.inputs;
        k.sums[((n * e.height + y) * e.width + x) * e.groups + g] = float(sum);
      }
    }
  }
}

}  // namespace

// ---- pools --------------------------------------------------------------------------------------------------------

const Window* Lowering::windows(int axis, int64_t positions, int64_t size) {
  std::vector<Window> result;
  for (int64_t p = 0; p < positions; ++p) {
    if (op_.kind == Kind::adaptive_avg_pool) {
      const int64_t begin = p * size / positions, end = ((p + 1) * size + positions - 1) / positions;
      result.push_back({int32_t(begin), int32_t(end - begin), int32_t(end - begin)});
      continue;
    }
    const Taps t = valid_taps(op_, axis, p, size);
    const int64_t start = p * op_.stride[axis] - op_.padding[axis];
    const int64_t with_padding = std::min(start + op_.kernel[axis], size + op_.padding[axis]) - start;
    const int64_t extent = op_.count_include_pad ? with_padding : t.count;
    result.push_back({int32_t(start + t.first * op_.dilation[axis]), int32_t(t.count), int32_t(extent)});
  }
  return copy(memory_, result);
}

Pool Lowering::pool() {
  Pool k{};
  k.input = map(op_.input());
  k.rows = windows(0, out_.height, in_.height);
  k.cols = windows(1, out_.width, in_.width);
  k.dilation_y = int32_t(op_.dilation[0]), k.dilation_x = int32_t(op_.dilation[1]);
  k.average = op_.kind == Kind::avg_pool || op_.kind == Kind::adaptive_avg_pool;
  if (op_.kind == Kind::max_pool_bits) {
    uint16_t* mask = memory_.make<uint16_t>(k.input.pixel / 2);
    for (int64_t c = 0; op_.and_mask && c < out_.channels; ++c) {
      mask[c / 16] = uint16_t(mask[c / 16] | (op_.and_mask[c / 64] >> c % 64 & 1) << c % 16);
    }
    k.and_mask = mask;
  }
  k.out = epilogue();
  return k;
}

// The rest of a rising epilogue commutes with the maximum: then it is left to the fewer numbers behind the pool.
ConvPool Lowering::conv_pool(Lowering& behind) {
  constexpr int64_t kAhead = 4;  // windows for which the buffer has room besides the first
  ConvPool f{conv(), behind.pool(), nullptr, 0, 0, false};
  Epilogue &first = f.conv.out, &then = f.pool.out;
  const auto rises = [&](const float* slopes) { return !slopes || *std::min_element(slopes, slopes + padded_) >= 0; };
  const Op& pool = behind.op_;
  bool plain = !pool.rows[BBG_SCALE] && !pool.rows[BBG_BIAS] && pool.shortcut == kNone && !then.above && !then.clip;
  if (plain && rises(first.above) && rises(first.below)) {
    then.above = first.above, then.below = first.below, then.offset = first.offset;
    then.low = first.low, then.high = first.high, then.clip = first.clip;
    first.above = nullptr, first.clip = false;
  }
  // Three columns, every other one, from the one beside the map on, as in bytes.inl.
  f.columns = pool.kernel[1] == 3 && pool.stride[1] == 2 && pool.padding[1] == 1 && pool.dilation[1] == 1 &&
              2 * behind.out_.width == out_.width;
  if (f.columns) {
    std::vector<Window> cols;
    for (int32_t x = 0; x < behind.out_.width; ++x) cols.push_back({x, 1, 1});
    f.pool.cols = copy(memory_, cols);
    first.real.row = f.pool.input.row = behind.out_.width * first.real.pixel;
  }
  first.real.image = f.pool.input.image = 0;
  f.rows = (pool.kernel[0] - 1) * pool.dilation[0] + 1 + kAhead * pool.stride[0];
  f.bytes = round_up(f.rows * first.real.row, 64);
  f.buffer = static_cast<uint8_t*>(memory_.allocate(members_, f.bytes, false));
  return f;
}

void Lowering::steps(int index, std::vector<Step>& steps) {
  if (is_conv(op_)) {
    if (op_.rows[BBG_SHIFT]) {
      WindowSum s{map(op_.input()), windows(0, out_.height, in_.height), windows(1, out_.width, in_.width), op_.dilation[0],
                  op_.dilation[1], group_inputs(), epilogue(), reinterpret_cast<float*>(scratch_)};
      steps.push_back({window_sums, keep(s), out_.height, index});
    }
    const Conv k = conv();
    if (op_.kind == Kind::binary_conv && k.count == Count::triples) {
      const Parity p{k.input.data - k.input.left, scratch_, k.input.image, k.input.row, k.next, in_.height};
      steps.push_back({kernels_.parity, keep(p), in_.height, index});
    }
    const Run real = is_depthwise(graph_, op_) ? kernels_.depthwise : kernels_.conv;
    steps.push_back({op_.kind == Kind::conv ? real : kernels_.binary_conv, keep(k), out_.height, index, k.block_count,
                     k.together});
  } else {
    steps.push_back(value_step(index));
  }
}

// Where each channel of a concatenation, a selection or a repetition comes from.
Gather Lowering::gather() {
  Gather k{};
  std::vector<Map> inputs;
  std::vector<int32_t> input(static_cast<size_t>(padded_)), channel(static_cast<size_t>(padded_)), whole;
  size_t to = 0;
  for (int v : op_.operands) {
    const int64_t given = graph_.values[size_t(v)].channels, taken = op_.kind == Kind::concat ? given : channels_;
    for (int64_t c = 0; c < taken; ++c, ++to) {
      input[to] = int32_t(inputs.size());
      channel[to] = op_.kind == Kind::select ? op_.index[c] : int32_t(c % given);
    }
    inputs.push_back(map(v));
  }
  for (int64_t first = 0; first < padded_; first += lanes_) {
    bool side_by_side = true;
    for (int64_t c = first + 1; c < std::min(first + lanes_, channels_); ++c) {
      side_by_side &= input[size_t(c)] == input[size_t(first)] && channel[size_t(c)] == channel[size_t(first)] + c - first;
    }
    whole.push_back(side_by_side);
  }
  k.inputs = copy(memory_, inputs);
  k.input = copy(memory_, input), k.channel = copy(memory_, channel), k.whole = copy(memory_, whole);
  k.out = epilogue();
  return k;
}

Step Lowering::value_step(int index) {
  const Map input = map(op_.input());
  const auto step = [&](Run run, const void* args) { return Step{run, args, out_.height, index}; };
  switch (op_.kind) {
    case Kind::match_channels:
    case Kind::pointwise: {
      if (out_.channels > in_.channels) return step(kernels_.gather, keep(gather()));
      float* part = memory_.make<float>(padded_);
      const int64_t mean = in_.channels / out_.channels, rest = in_.channels % out_.channels;
      for (int64_t c = 0; c < padded_; ++c) part[c] = 1.0f / float(mean + (c < rest));
      return step(kernels_.match, keep(Match{input, int32_t(in_.channels), part, epilogue()}));
    }
    case Kind::concat:
    case Kind::select:
      return step(kernels_.gather, keep(gather()));
    case Kind::multiply: {
      Map factor = map(op_.operands[1]);
      const Value& shape = graph_.values[size_t(op_.operands[1])];
      if (shape.height * shape.width == 1) factor.row = factor.pixel = 0;
      return step(kernels_.multiply, keep(Multiply{input, factor, epilogue()}));
    }
    case Kind::tanh: return step(kernels_.curve, keep(Curved{input, Curve::tanh, epilogue()}));
    case Kind::sigmoid: return step(kernels_.curve, keep(Curved{input, Curve::sigmoid, epilogue()}));
    case Kind::silu: return step(kernels_.curve, keep(Curved{input, Curve::silu, epilogue()}));
    case Kind::hardswish: return step(kernels_.curve, keep(Curved{input, Curve::hardswish, epilogue()}));
    case Kind::gelu: return step(kernels_.curve, keep(Curved{input, Curve::gelu, epilogue()}));
    case Kind::layer_norm: {
      float* valid = memory_.make<float>(lanes_);
      for (int64_t i = 0; i < lanes_; ++i) valid[i] = padded_ - lanes_ + i < out_.channels ? 1.0f : -1.0f;
      return step(kernels_.layer_norm, keep(LayerNorm{input, op_.eps, 1.0f / float(out_.channels), valid, epilogue()}));
    }
    case Kind::max_pool_bits:
      return step(kernels_.pool_bits, keep(pool()));
    default:
      return step(kernels_.pool, keep(pool()));
  }
}

constexpr int64_t kMapLimit = (int64_t{1} << 31) - 1;  // offsets within an image have 32 bits

Maps lay_out(const Graph& graph, const Kernels& kernels) {
  Maps maps(graph.values.size());
  const auto number = [&](const Value& value) { return value.type == Type::real ? int64_t(sizeof(float)) : kernels.byte_size; };
  bool dense_input = true;  // convolutions read numbers one by one: only then may input pixels lie side by side
  for (size_t v = 0; v < maps.size(); ++v) {
    const Value& value = graph.values[v];
    maps[v].channels = value.channels;
    if (value.type == Type::bits) {
      maps[v].pixel = value.channels <= 16 ? 2 : round_up(value.channels, 32) / 8;
    } else {
      maps[v].pixel = round_up(value.channels, kernels.lanes) * number(value);
    }
  }
  for (const Op& op : graph.ops) {
    if (op.shortcut == 0 || (op.has_operand(0) && !is_conv(op))) dense_input = false;
  }
  for (const Op& op : graph.ops) {
    const int64_t stored = repeated(graph, op, kernels.lanes);
    if (stored) maps[size_t(op.real)].channels = stored, maps[size_t(op.real)].pixel = stored * int64_t(sizeof(float));
  }
  if (dense_input) maps[0].pixel = graph.values[0].channels * number(graph.values[0]);
  for (const Op& op : graph.ops) {
    if (!is_conv(op)) continue;
    Map& m = maps[size_t(op.input())];
    const int64_t width = graph.values[size_t(op.input())].width, outputs = graph.values[size_t(op.result())].width;
    const int64_t last = (outputs - 1) * op.stride[1] - op.padding[1] + (op.kernel[1] - 1) * op.dilation[1];
    m.left = std::max(m.left, op.padding[1] * m.pixel);
    m.right = std::max(m.right, (last - (width - 1)) * m.pixel);
  }
  for (size_t v = 0; v < maps.size(); ++v) {
    Map& m = maps[v];
    m.row = m.left + graph.values[v].width * m.pixel + m.right;
    if (m.row > kMapLimit / graph.values[v].height) throw Refusal("a value takes more than 2 GiB per image");
    m.image = m.row * graph.values[v].height;
  }
  return maps;
}

int64_t repeated(const Graph& graph, const Op& op, int lanes) {
  const int64_t inputs = graph.values[size_t(op.input())].channels;
  if (op.kind != Kind::match_channels || op.shortcut != kNone || op.clipped()) return 0;
  if (op.real == kNone || op.bits != kNone || op.bytes != kNone) return 0;
  if (std::any_of(op.rows.begin(), op.rows.end(), [](const auto& row) { return bool(row); })) return 0;
  for (const Op& other : graph.ops) {
    if (other.has_operand(op.real)) return 0;
  }
  if (std::find(graph.outputs.begin(), graph.outputs.end(), op.real) != graph.outputs.end()) return 0;
  const int64_t period = std::lcm(inputs, int64_t(lanes)), outputs = graph.values[size_t(op.real)].channels;
  return period < outputs || (period == outputs && period == inputs) ? period : 0;
}

bool only_repeats(const Graph& graph, const Op& op, int lanes) {
  return repeated(graph, op, lanes) == graph.values[size_t(op.input())].channels;
}

int64_t scratch_bytes(const Graph& graph, const Op& op, const Maps& maps, const Kernels& kernels) {
  const Value &in = graph.values[size_t(op.input())], &out = graph.values[size_t(op.result())];
  const Map& input = maps[size_t(op.input())];
  if (op.rows[BBG_SHIFT]) return out.height * out.width * op.groups * int64_t(sizeof(float));
  if (op.kind == Kind::binary_conv && counting(op, in, out, input, kernels) == Count::triples) return input.image;
  return 0;
}

int pool_behind(const Graph& graph, int index) {
  const Op& op = graph.ops[size_t(index)];
  if (op.kind != Kind::byte_conv || op.real == kNone || op.bits != kNone || op.bytes != kNone || op.shortcut != kNone) {
    return kNone;
  }
  int pool = kNone, readers = int(std::count(graph.outputs.begin(), graph.outputs.end(), op.real));
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& other = graph.ops[i];
    readers += int(std::count(other.operands.begin(), other.operands.end(), op.real)) + (other.shortcut == op.real);
    if (other.kind == Kind::max_pool && other.input() == op.real) pool = int(i);
  }
  return readers == 1 ? pool : kNone;
}

void lower(const Graph& graph, int index, const Maps& maps, uint8_t* scratch, const Kernels& kernels, int64_t members,
           Memory& memory, std::vector<Step>& steps) {
  const auto lowering = [&](const Op& op) { return Lowering(graph, op, maps, scratch, kernels, members, memory); };
  const Op& op = graph.ops[size_t(index)];
  const int before = graph.values[size_t(op.input())].writer;
  if (before != kNone && pool_behind(graph, before) == index) {
    Lowering pool = lowering(op);
    const ConvPool f = lowering(graph.ops[size_t(before)]).conv_pool(pool);
    steps.push_back({kernels.conv_pool, copy(memory, std::vector<ConvPool>{f}), f.pool.out.height, index});
  } else if (pool_behind(graph, index) == kNone) {
    lowering(op).steps(index, steps);
  }
}

}  // namespace bbg
