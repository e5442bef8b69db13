#include "ops.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

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

namespace {

bool is_conv(const Op& op) { return op.kind == Kind::conv || op.kind == Kind::binary_conv; }

// Taps of one output position that lie inside the map, in one direction.
struct Taps {
  int64_t first, count;
  bool operator<(const Taps& o) const { return std::tie(first, count) < std::tie(o.first, o.count); }
};

Taps valid_taps(const Op& op, int axis, int64_t position, int64_t size) {
  const int64_t start = position * op.stride[axis] - op.padding[axis], dilation = op.dilation[axis];
  const int64_t first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int64_t end = start < size ? std::min(op.kernel[axis], (size - 1 - start) / dilation + 1) : 0;
  return end > first ? Taps{first, end - first} : Taps{0, 0};
}

// Border classes: output positions with the same valid taps share one.
struct Classes {
  std::vector<Taps> taps;      // of each class
  std::vector<int32_t> of;     // of each position
};

Classes classify(const Op& op, int axis, int64_t positions, int64_t size) {
  Classes result;
  std::map<Taps, int32_t> known;
  for (int64_t p = 0; p < positions; ++p) {
    const Taps t = valid_taps(op, axis, p, size);
    const auto [entry, fresh] = known.emplace(t, int32_t(result.taps.size()));
    if (fresh) result.taps.push_back(t);
    result.of.push_back(entry->second);
  }
  return result;
}

template <class T>
const T* copy(Memory& memory, const std::vector<T>& from) {
  T* to = memory.make<T>(int64_t(from.size()));
  std::copy(from.begin(), from.end(), to);
  return to;
}

// How a binary convolution counts.
Count counting(const Op& op, const Value& in, const Map& input, const Kernels& kernels) {
  constexpr int64_t kPairTaps = 4095;   // more would overflow 16-bit counts
  constexpr int64_t kLeastTriple = 96;  // bits of a tap row from which on three words at a time pay
  const bool narrow = input.pixel == 2;
  if (narrow && kernels.pairs && op.groups == 1 && op.stride[1] == 1 && op.kernel[0] * op.kernel[1] <= kPairTaps) {
    return Count::pairs;
  }
  if (op.groups > 1 || narrow) return Count::masked;
  const bool long_enough = in.channels * op.kernel[1] >= kLeastTriple;
  // The three words are those of three neighbouring taps.
  if (kernels.triples && op.kernel[1] % 3 == 0 && long_enough && !op.rows[BBG_SHIFT]) return Count::triples;
  return Count::words;
}

class Lowering {
 public:
  Lowering(const Graph& graph, const Op& op, const Maps& maps, uint8_t* scratch, const Kernels& kernels, Memory& memory)
      : op_(op), in_(graph.values[size_t(op.input)]), out_(graph.values[size_t(op.result())]), maps_(maps),
        scratch_(scratch), kernels_(kernels), memory_(memory), lanes_(kernels.lanes),
        padded_(round_up(out_.channels, kernels.lanes)) {}

  void steps(int index, std::vector<Step>& steps);

 private:
  Map map(int value) const { return value == kNone ? Map{} : maps_[size_t(value)]; }

  template <class T, class From>
  const T* padded(const Tensor<From>& row, T absent, T pad) {
    T* to = memory_.make<T>(padded_);
    for (int64_t c = 0; c < padded_; ++c) to[c] = c >= out_.channels ? pad : row ? row[c] : absent;
    return to;
  }

  Epilogue epilogue();
  Conv conv();
  std::vector<ConvBlock> blocks();
  void arrange_bits(Conv& k, std::vector<ConvBlock>& blocks);
  void arrange_reals(Conv& k, std::vector<ConvBlock>& blocks);
  const int32_t* offsets(const Conv& k, int64_t first, int64_t items, int64_t step, int64_t taps_per_item);
  uint32_t* block_bits(const Conv& k, const ConvBlock& b, int64_t first_word, int64_t words, bool mask);
  void border_tables(Conv& k, const Classes& rows, const Classes& cols);
  const Window* windows(int axis, int64_t positions, int64_t size);
  Pool pool();

  int64_t group_of(int64_t channel) const { return channel / (out_.channels / op_.groups); }
  int64_t group_inputs() const { return in_.channels / op_.groups; }
  uint32_t filter_bits(int64_t channel, int64_t from, int64_t count) const;

  const Op& op_;
  const Value &in_, &out_;
  const Maps& maps_;
  uint8_t* scratch_;
  const Kernels& kernels_;
  Memory& memory_;
  const int64_t lanes_, padded_;
};

Epilogue Lowering::epilogue() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto& rows = op_.rows;
  Epilogue e{};
  e.scale = padded(rows[BBG_SCALE], 1.0f, 0.0f);
  e.bias = padded(rows[BBG_BIAS], 0.0f, 0.0f);
  e.gate = padded(rows[BBG_GATE], 1.0f, 0.0f);
  e.sign = padded(rows[BBG_SIGN], 0.0f, kInfinity);
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
  e.shortcut = map(op_.shortcut), e.real = map(op_.real), e.bits = map(op_.bits);
  e.channels = int32_t(out_.channels), e.height = int32_t(out_.height), e.width = int32_t(out_.width);
  return e;
}

// ---- convolutions -------------------------------------------------------------------------------------------------

std::vector<ConvBlock> Lowering::blocks() {
  std::vector<ConvBlock> result;
  for (int64_t c = 0; c < padded_; c += 2 * lanes_) {
    ConvBlock b{};
    b.channel = int32_t(c);
    b.vectors = c + 2 * lanes_ <= padded_ ? 2 : 1;
    result.push_back(b);
  }
  return result;
}

Conv Lowering::conv() {
  const Classes rows = classify(op_, 0, out_.height, in_.height), cols = classify(op_, 1, out_.width, in_.width);
  Conv k{};
  k.input = map(op_.input);
  std::vector<ConvRow> table;
  for (int64_t y = 0; y < out_.height; ++y) {
    const int32_t cls = rows.of[size_t(y)];
    const Taps t = rows.taps[size_t(cls)];
    const int64_t top = t.count ? y * op_.stride[0] - op_.padding[0] + t.first * op_.dilation[0] : 0;
    table.push_back({top * k.input.row, int32_t(t.first), int32_t(t.count), cls});
  }
  k.rows = copy(memory_, table);
  if (padded_ > std::numeric_limits<int32_t>::max() / int64_t(cols.taps.size())) throw Refusal("a convolution is too large");
  std::vector<int32_t> borders = cols.of;
  for (int32_t& b : borders) b = int32_t(b * padded_);
  k.col_border = copy(memory_, borders);
  k.origin = -op_.padding[1] * k.input.pixel;
  k.column = op_.stride[1] * k.input.pixel;
  k.class_row = padded_ * int64_t(cols.taps.size());
  k.out = epilogue();

  std::vector<ConvBlock> parts = blocks();
  if (op_.kind == Kind::binary_conv) {
    arrange_bits(k, parts);
    border_tables(k, rows, cols);
  } else {
    arrange_reals(k, parts);
  }
  k.blocks = copy(memory_, parts);
  k.block_count = int32_t(parts.size());
  return k;
}

// Offsets of a window's items: for every tap row, for every (first of three) tap, `items` things from `first` on.
const int32_t* Lowering::offsets(const Conv& k, int64_t first, int64_t items, int64_t step, int64_t taps_per_item) {
  std::vector<int32_t> table;
  for (int64_t ky = 0; ky < op_.kernel[0]; ++ky) {
    const int64_t row = ky * op_.dilation[0] * k.input.row;
    for (int64_t kx = 0; kx < op_.kernel[1]; kx += taps_per_item) {
      const int64_t tap = row + kx * op_.dilation[1] * k.input.pixel + first;
      for (int64_t i = 0; i < items; ++i) {
        table.push_back(row < k.input.image ? int32_t(tap + i * step) : 0);  // rows outside of every map are never read
      }
    }
  }
  return copy(memory_, table);
}

void Lowering::arrange_reals(Conv& k, std::vector<ConvBlock>& parts) {
  constexpr int64_t kBytes = sizeof(float);
  const int64_t inputs = group_inputs(), taps = op_.kernel[0] * op_.kernel[1];
  for (ConvBlock& b : parts) {
    // The filters of a block read the channels of all their groups; weights of foreign groups are 0.
    const int64_t last = std::min(b.channel + b.vectors * lanes_, out_.channels) - 1;
    const int64_t from = group_of(b.channel) * inputs, range = (group_of(last) + 1) * inputs - from;
    const bool same = op_.groups == 1 && &b != &parts[0];
    b.items = int32_t(op_.kernel[1] * range);
    b.offsets = same ? parts[0].offsets : offsets(k, from * kBytes, range, kBytes, 1);
    // A linear layer is bound by reading its weights: they lie side by side, and its unused lanes read those behind.
    const bool dense = out_.height * out_.width == 1;
    const int64_t width = dense ? last + 1 - b.channel : b.vectors * lanes_;
    b.width = int32_t(width);
    b.row_weights = b.items * width;
    float* weights = memory_.make<float>(taps * range * width + b.vectors * lanes_);
    for (int64_t o = b.channel; o <= last; ++o) {
      const int64_t shift = group_of(o) * inputs - from;
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t c = 0; c < inputs; ++c) {
          weights[(t * range + shift + c) * width + o - b.channel] = op_.real_weight[(o * taps + t) * inputs + c];
        }
      }
    }
    b.weights = weights;
  }
}

// Up to 32 bits of filter `channel` from its bit `from` on.
uint32_t Lowering::filter_bits(int64_t channel, int64_t from, int64_t count) const {
  const int64_t words = (op_.kernel[0] * op_.kernel[1] * group_inputs() + 63) / 64;
  const uint64_t* row = op_.bit_weight.data + channel * words;
  const int64_t word = from / 64, shift = from % 64;
  uint64_t bits = row[word] >> shift;
  if (shift + count > 64) bits |= row[word + 1] << (64 - shift);
  return uint32_t(bits & ((uint64_t{1} << count) - 1));
}

// The block's weights (or the mask of its groups): [tap][word][lane], or [three taps][word][tap of three][lane].
uint32_t* Lowering::block_bits(const Conv& k, const ConvBlock& b, int64_t first_word, int64_t words, bool mask) {
  const int64_t taps = op_.kernel[0] * op_.kernel[1], inputs = group_inputs(), width = b.vectors * lanes_;
  const int64_t together = k.count == Count::triples ? 3 : 1;
  uint32_t* to = memory_.make<uint32_t>(taps * words * width);
  for (int64_t lane = 0; lane < width && b.channel + lane < out_.channels; ++lane) {
    const int64_t o = b.channel + lane, start = group_of(o) * inputs, end = start + inputs;
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t w = 0; w < words; ++w) {
        const int64_t word = 32 * (first_word + w), low = std::max(word, start), high = std::min(word + 32, end);
        if (low >= high) continue;
        uint32_t bits = uint32_t((uint64_t{1} << (high - low)) - 1);
        if (!mask) bits = filter_bits(o, t * inputs + low - start, high - low);
        bits <<= low - word;
        if (k.count == Count::pairs) bits |= bits << 16;
        const int64_t item = (t / together * words + w) * together + t % together;
        to[item * width + lane] = bits;
      }
    }
  }
  return to;
}

// Of each three words, the third becomes the XOR of all.
void third_to_parity(uint32_t* weights, int64_t words, int64_t width) {
  for (int64_t w = 0; w < words; w += 3, weights += 3 * width) {
    for (int64_t lane = 0; lane < width; ++lane) weights[2 * width + lane] ^= weights[lane] ^ weights[width + lane];
  }
}

void Lowering::arrange_bits(Conv& k, std::vector<ConvBlock>& parts) {
  const int64_t inputs = group_inputs();
  k.count = counting(op_, in_, k.input, kernels_);
  const int64_t together = k.count == Count::triples ? 3 : 1;
  k.next = op_.dilation[1] * k.input.pixel;
  if (together == 3) k.parity = scratch_ - (k.input.data - k.input.left);
  for (ConvBlock& b : parts) {
    const int64_t last = std::min(b.channel + b.vectors * lanes_, out_.channels) - 1;
    const int64_t first = group_of(b.channel) * inputs / 32, end = ((group_of(last) + 1) * inputs + 31) / 32;
    const bool same = op_.groups == 1 && &b != &parts[0];
    b.items = int32_t(op_.kernel[1] / together * (end - first));
    b.offsets = same ? parts[0].offsets : offsets(k, first * 4, end - first, 4, together);
    const int64_t width = b.vectors * lanes_;
    b.row_weights = b.items * together * width;
    uint32_t* weights = block_bits(k, b, first, end - first, false);
    if (together == 3) third_to_parity(weights, op_.kernel[0] * b.items * 3, width);
    b.weights = weights;
    if (k.count == Count::masked) b.mask = block_bits(k, b, first, end - first, true);
  }
}

void Lowering::border_tables(Conv& k, const Classes& rows, const Classes& cols) {
  const int64_t kw = op_.kernel[1], taps = op_.kernel[0] * kw, inputs = group_inputs();
  std::vector<int32_t> ones(size_t(taps * out_.channels));  // set bits of each filter's taps
  for (int64_t o = 0; o < out_.channels; ++o) {
    for (int64_t t = 0; t < taps; ++t) {
      int32_t& sum = ones[size_t(t * out_.channels + o)];
      for (int64_t c = 0; c < inputs; c += 32) {
        sum += __builtin_popcount(filter_bits(o, t * inputs + c, std::min<int64_t>(32, inputs - c)));
      }
    }
  }
  const int64_t size = int64_t(rows.taps.size()) * k.class_row;
  int32_t* base = memory_.make<int32_t>(size);
  float* bias = op_.tap_bias ? memory_.make<float>(size) : nullptr;
  int64_t at = 0;
  for (const Taps& r : rows.taps) {
    for (const Taps& c : cols.taps) {
      const auto inside = [&](int64_t kx) { return kx >= c.first && kx < c.first + c.count; };
      for (int64_t o = 0; o < out_.channels; ++o) {
        uint32_t padded_ones = 0;
        float sum = k.out.bias[o];
        for (int64_t ky = r.first; ky < r.first + r.count; ++ky) {
          for (int64_t kx = 0; kx < kw; ++kx) {
            const int64_t t = (ky * kw + kx) * out_.channels + o;
            if (!inside(kx)) padded_ones += uint32_t(ones[size_t(t)]);
            if (bias && inside(kx)) sum += op_.tap_bias[t];
          }
        }
        base[at + o] = int32_t(uint32_t(r.count * c.count * inputs) + 2 * padded_ones);
        if (bias) bias[at + o] = sum;
      }
      at += padded_;
    }
  }
  k.base = base;
  k.class_bias = bias;
}

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

void window_sums(const void* args, int64_t, int64_t begin, int64_t end) {
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
  k.input = map(op_.input);
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

void Lowering::steps(int index, std::vector<Step>& steps) {
  const auto keep = [&](auto args) {
    auto* kept = memory_.make<decltype(args)>(1);
    *kept = args;
    return kept;
  };
  if (is_conv(op_)) {
    if (op_.rows[BBG_SHIFT]) {
      WindowSum s{map(op_.input), windows(0, out_.height, in_.height), windows(1, out_.width, in_.width), op_.dilation[0],
                  op_.dilation[1], group_inputs(), epilogue(), reinterpret_cast<float*>(scratch_)};
      steps.push_back({window_sums, keep(s), out_.height, index});
    }
    const Conv k = conv();
    if (op_.kind == Kind::binary_conv && k.count == Count::triples) {
      const Parity p{k.input.data - k.input.left, scratch_, k.input.image, k.input.row, k.next, in_.height};
      steps.push_back({kernels_.parity, keep(p), in_.height, index});
    }
    const Run run = op_.kind == Kind::conv ? kernels_.conv : kernels_.binary_conv;
    steps.push_back({run, keep(k), out_.height * k.block_count, index});
  } else if (op_.kind == Kind::match_channels || op_.kind == Kind::pointwise) {
    steps.push_back({kernels_.match, keep(Match{map(op_.input), int32_t(in_.channels), epilogue()}), out_.height, index});
  } else {
    const Run run = op_.kind == Kind::max_pool_bits ? kernels_.pool_bits : kernels_.pool;
    steps.push_back({run, keep(pool()), out_.height, index});
  }
}

}  // namespace

constexpr int64_t kMapLimit = (int64_t{1} << 31) - 1;  // offsets within an image have 32 bits

Maps lay_out(const Graph& graph, int lanes) {
  Maps maps(graph.values.size());
  bool dense_input = true;  // convolutions read numbers one by one: only then may input pixels lie side by side
  for (size_t v = 0; v < maps.size(); ++v) {
    const Value& value = graph.values[v];
    maps[v].channels = value.channels;
    if (value.bits) {
      maps[v].pixel = value.channels <= 16 ? 2 : round_up(value.channels, 32) / 8;
    } else {
      maps[v].pixel = round_up(value.channels, lanes) * int64_t(sizeof(float));
    }
  }
  for (const Op& op : graph.ops) {
    if (op.shortcut == 0 || (op.input == 0 && op.kind != Kind::conv)) dense_input = false;
  }
  if (dense_input) maps[0].pixel = graph.values[0].channels * int64_t(sizeof(float));
  for (const Op& op : graph.ops) {
    if (!is_conv(op)) continue;
    Map& m = maps[size_t(op.input)];
    const int64_t width = graph.values[size_t(op.input)].width, outputs = graph.values[size_t(op.result())].width;
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

bool only_repeats(const Graph& graph, const Op& op, int lanes) {
  const Value& in = graph.values[size_t(op.input)];
  if (op.kind != Kind::match_channels || op.bits != kNone || op.shortcut != kNone || op.clipped()) return false;
  if (in.channels % lanes || graph.values[size_t(op.real)].channels < in.channels) return false;
  for (const auto& row : op.rows) {
    if (row) return false;
  }
  for (const Op& other : graph.ops) {
    if (other.input == op.real) return false;
  }
  return std::find(graph.outputs.begin(), graph.outputs.end(), op.real) == graph.outputs.end();
}

int64_t scratch_bytes(const Graph& graph, const Op& op, const Maps& maps, const Kernels& kernels) {
  const Value &in = graph.values[size_t(op.input)], &out = graph.values[size_t(op.result())];
  const Map& input = maps[size_t(op.input)];
  if (op.rows[BBG_SHIFT]) return out.height * out.width * op.groups * int64_t(sizeof(float));
  if (op.kind == Kind::binary_conv && counting(op, in, input, kernels) == Count::triples) return input.image;
  return 0;
}

void lower(const Graph& graph, int index, const Maps& maps, uint8_t* scratch, const Kernels& kernels, Memory& memory,
           std::vector<Step>& steps) {
  Lowering(graph, graph.ops[size_t(index)], maps, scratch, kernels, memory).steps(index, steps);
}

}  // namespace bbg
