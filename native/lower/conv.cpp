// Convolutions: which taps count where, and weights in the order in which the kernels read them.
#include <cstring>
#include <limits>
#include <map>

#include "lower/lower.h"

namespace bbg {

// Border classes: output positions with the same valid taps share one.
struct Classes {
  std::vector<Taps> taps;      // of each class
  std::vector<int32_t> of;     // of each position
};

static Classes classify(const Op& op, int axis, int64_t positions, int64_t size) {
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

// How a binary convolution counts.
Count counting(const Op& op, const Value& in, const Value& out, const Map& input, const Kernels& kernels) {
  constexpr int64_t kPairTaps = 4095;    // more would overflow 16-bit counts
  constexpr int64_t kLeastTriple = 96;   // bits of a tap row from which on three words at a time pay
  constexpr int64_t kLeastNibbles = 41;  // filters from which on a block of 64 takes less time than the blocks of 16
  const bool narrow = input.pixel == 2;
  // A single output has no neighbour in its row: what is next to it is another image, whose words lie elsewhere.
  const bool neighbours = out.width > 1 && op.stride[1] == 1;
  if (narrow && kernels.pairs && neighbours && op.groups == 1 && op.kernel[0] * op.kernel[1] <= kPairTaps) {
    return Count::pairs;
  }
  if (op.groups > 1 || narrow) return Count::masked;
  const bool long_enough = in.channels * op.kernel[1] >= kLeastTriple;
  // The three words are those of three neighbouring taps. Half the accumulator must be whole.
  const bool thirds = op.kernel[1] % 3 == 0 && in.channels % 2 == 0;
  if (kernels.triples && thirds && long_enough && !op.rows[BBG_SHIFT]) return Count::triples;
  // The table kernel counts for 64 filters at a time, of which enough must exist, and shares weights of twice the size
  // among neighbouring pixels, of which there must be more than one.
  const bool fits = op.kernel[0] * op.kernel[1] <= kNibbleBits / (8 * input.pixel);
  if (kernels.nibbles && out.channels >= kLeastNibbles && out.width > 1 && fits) return Count::nibbles;
  return Count::words;
}

bool is_depthwise(const Graph& graph, const Op& op) {
  const int64_t inputs = graph.values[size_t(op.input())].channels, outputs = graph.values[size_t(op.result())].channels;
  return op.kind == Kind::conv && op.groups > 1 && op.groups == inputs && op.groups == outputs;
}

std::vector<ConvBlock> Lowering::blocks(int64_t vectors) {
  std::vector<ConvBlock> result;
  for (int64_t c = 0; c < padded_; c += vectors * lanes_) {
    ConvBlock b{};
    b.channel = int32_t(c);
    b.vectors = int32_t(std::min(vectors, (padded_ - c) / lanes_));
    result.push_back(b);
  }
  return result;
}

Conv Lowering::conv() {
  const Classes rows = classify(op_, 0, out_.height, in_.height), cols = classify(op_, 1, out_.width, in_.width);
  Conv k{};
  k.input = map(op_.input());
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
  k.origin = -op_.padding[1] * k.input.pixel;
  k.column = op_.stride[1] * k.input.pixel;
  k.next = op_.dilation[1] * k.input.pixel;
  k.below = op_.dilation[0] * k.input.row;
  k.class_row = padded_ * int64_t(cols.taps.size());
  k.out = epilogue();
  const auto dense = [](const Map& m) { return !m.data || m.image == m.pixel; };
  if (op_.kind != Kind::conv && out_.height * out_.width == 1 && dense(k.out.real) && dense(k.out.bits) &&
      dense(k.out.bytes) && dense(k.out.shortcut)) {
    k.together = true;
    k.column = k.input.image;
    borders.resize(size_t(kRoundImages));
  }
  k.col_border = copy(memory_, borders);
  std::vector<int32_t> alike(borders.size(), 1);
  for (size_t x = alike.size() - 1; x-- > 0;) alike[x] += borders[x] == borders[x + 1] ? alike[x + 1] : 0;
  k.col_alike = copy(memory_, alike);

  if (op_.kind == Kind::binary_conv) k.count = counting(op_, in_, out_, k.input, kernels_);
  // A block computes with the channels of all its groups: where groups are no wider than a vector, with half as many.
  const bool sums = op_.kind == Kind::byte_conv || (op_.kind == Kind::conv && !is_depthwise(graph_, op_));
  const bool narrow = sums && op_.groups > 1 && out_.channels / op_.groups <= lanes_;
  std::vector<ConvBlock> parts = blocks(k.count == Count::nibbles ? kNibbleFilters / lanes_ : narrow ? 1 : 2);
  if (is_depthwise(graph_, op_)) {
    arrange_depthwise(k, parts);
  } else if (op_.kind == Kind::conv) {
    arrange_reals(k, parts);
  } else {
    op_.kind == Kind::binary_conv ? arrange_bits(k, parts) : arrange_bytes(k, parts);
    border_tables(k, rows, cols);
    if (k.count == Count::triples) double_scale(k.out);
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

// Each filter has one channel, that of its lane: an item is a tap.
void Lowering::arrange_depthwise(Conv& k, std::vector<ConvBlock>& parts) {
  const int64_t taps = op_.kernel[0] * op_.kernel[1];
  const int32_t* tap_offsets = offsets(k, 0, 1, 0, 1);
  for (ConvBlock& b : parts) {
    const int64_t width = b.vectors * lanes_;
    b.items = int32_t(op_.kernel[1]);
    b.offsets = tap_offsets;
    b.width = int32_t(width);
    b.row_weights = b.items * width;
    float* weights = memory_.make<float>(taps * width);
    for (int64_t o = b.channel; o < std::min(b.channel + width, out_.channels); ++o) {
      for (int64_t t = 0; t < taps; ++t) weights[t * width + o - b.channel] = op_.real_weight[o * taps + t];
    }
    b.weights = weights;
  }
}

// A word holds as many numbers as its bytes are wide; those of a tap row that lie side by side share words, behind the
// last there are weights of 0, unless it goes to the Rests. Only an input has no numbers between its pixels; else a tap's
// words are its own.
void Lowering::arrange_bytes(Conv& k, std::vector<ConvBlock>& parts) {
  k.count = Count::bytes;
  const int64_t inputs = group_inputs(), size = kernels_.byte_size, per_word = 4 / size;
  const bool run = k.input.pixel == in_.channels * size && op_.dilation[1] == 1 && op_.groups == 1;
  for (ConvBlock& b : parts) {
    const int64_t last = std::min(b.channel + b.vectors * lanes_, out_.channels) - 1, width = b.vectors * lanes_;
    const int64_t from = group_of(b.channel) * inputs, range = (group_of(last) + 1) * inputs - from;
    const int64_t taps = run ? op_.kernel[1] : 1;  // that share words
    const bool rests = kernels_.rests && run && !k.together && taps * range % per_word == 1 && op_.kernel[0] > 1 &&
                       k.column <= kRestColumn;
    const int64_t words = (taps * range + (rests ? 0 : per_word - 1)) / per_word;
    if (rests && !k.rests.words) k.rests = this->rests(4 * words);
    const bool same = op_.groups == 1 && &b != &parts[0];
    b.items = int32_t(op_.kernel[1] / taps * words);
    b.offsets = same ? parts[0].offsets : offsets(k, from * size, words, 4, taps);
    b.row_weights = b.items * width;
    uint8_t* to = memory_.make<uint8_t>((op_.kernel[0] * b.row_weights + k.rests.words * width) * 4);
    const int8_t* weight = op_.byte_weight.data + b.channel * op_.kernel[0] * op_.kernel[1] * inputs;
    for (int64_t o = b.channel; o <= last; ++o) {
      for (int64_t ky = 0; ky < op_.kernel[0]; ++ky) {
        for (int64_t kx = 0; kx < op_.kernel[1]; ++kx) {
          for (int64_t c = 0; c < inputs; ++c, ++weight) {
            const int64_t number = kx % taps * range + group_of(o) * inputs - from + c;
            const bool rest = rests && number == 4 * words;
            const int64_t item = rest ? op_.kernel[0] * words + ky / 4 : ky * b.items + kx / taps * words + number / per_word;
            const int64_t in_word = rest ? ky % 4 : number % per_word;
            uint8_t* place = to + (item * width + o - b.channel) * 4 + in_word * size;
            const int16_t wide = *weight;
            std::memcpy(place, &wide, size_t(size));  // little-endian: the first byte of a wide one is the narrow one
          }
        }
      }
    }
    b.weights = to;
  }
}

Rests Lowering::rests(int64_t from) {
  Rests r{};
  r.words = int32_t((op_.kernel[0] + 3) / 4);
  std::vector<int32_t> offsets;
  for (int64_t word = 0; word < r.words; ++word) offsets.push_back(int32_t(word * 4 * round_up(out_.width, lanes_)));
  r.offsets = copy(memory_, offsets);
  r.bytes = round_up(r.words * 4 * round_up(out_.width, lanes_), 64);
  r.buffer = static_cast<uint8_t*>(memory_.allocate(members_, r.bytes, false));
  r.from = int32_t(from);
  r.rows = op_.kernel[0];
  return r;
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

// The eight nibbles of a filter's bits, `width` bytes apart, where the table kernel wants them: see ConvBlock.
static void put_nibbles(uint32_t* item, int64_t width, int64_t filter, uint32_t bits) {
  const int64_t in_vector = filter % 32, place = filter - in_vector + in_vector % 16 * 2 + in_vector / 16;
  uint8_t* to = reinterpret_cast<uint8_t*>(item) + place;
  for (int i = 0; i < 8; ++i, bits >>= 4) to[i * width] = uint8_t(bits & 15);
}

// The block's weights (or the mask of its groups): [tap][word][lane], or [three taps][word][tap of three][lane], or
// nibbles.
uint32_t* Lowering::block_bits(const Conv& k, const ConvBlock& b, int64_t first_word, int64_t words, bool mask) {
  const int64_t taps = op_.kernel[0] * op_.kernel[1], inputs = group_inputs(), width = item_words(k, b);
  const int64_t together = k.count == Count::triples ? 3 : 1;
  uint32_t* to = memory_.make<uint32_t>(taps * words * width);
  for (int64_t lane = 0; lane < b.vectors * lanes_ && b.channel + lane < out_.channels; ++lane) {
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
        if (k.count == Count::nibbles) {
          put_nibbles(to + item * width, width / 2, lane, bits);
        } else {
          to[item * width + lane] = bits;
        }
      }
    }
  }
  return to;
}

// 32-bit words of weights per item of a block.
int64_t Lowering::item_words(const Conv& k, const ConvBlock& b) const {
  return k.count == Count::nibbles ? 2 * round_up(b.vectors * lanes_, 32) : b.vectors * lanes_;
}

// Of each three words, the third becomes the XOR of all.
static void third_to_parity(uint32_t* weights, int64_t words, int64_t width) {
  for (int64_t w = 0; w < words; w += 3, weights += 3 * width) {
    for (int64_t lane = 0; lane < width; ++lane) weights[2 * width + lane] ^= weights[lane] ^ weights[width + lane];
  }
}

void Lowering::arrange_bits(Conv& k, std::vector<ConvBlock>& parts) {
  const int64_t inputs = group_inputs();
  const int64_t together = k.count == Count::triples ? 3 : 1;
  if (together == 3) k.parity = scratch_ - (k.input.data - k.input.left);
  for (ConvBlock& b : parts) {
    const int64_t last = std::min(b.channel + b.vectors * lanes_, out_.channels) - 1;
    const int64_t first = group_of(b.channel) * inputs / 32, end = ((group_of(last) + 1) * inputs + 31) / 32;
    const bool same = op_.groups == 1 && &b != &parts[0];
    b.items = int32_t(op_.kernel[1] / together * (end - first));
    b.offsets = same ? parts[0].offsets : offsets(k, first * 4, end - first, 4, together);
    const int64_t width = item_words(k, b);
    b.row_weights = b.items * together * width;
    uint32_t* weights = block_bits(k, b, first, end - first, false);
    if (together == 3) third_to_parity(weights, op_.kernel[0] * b.items * 3, width);
    b.weights = weights;
    if (k.count == Count::masked) b.mask = block_bits(k, b, first, end - first, true);
  }
}

// For half the accumulator. Twice a number is below a whole threshold if and only if it is below its half, rounded up.
void Lowering::double_scale(Epilogue& e) {
  float* scale = memory_.make<float>(padded_);
  std::transform(e.scale, e.scale + padded_, scale, [](float s) { return 2 * s; });
  e.scale = scale;
  if (!e.threshold) return;
  int32_t* threshold = memory_.make<int32_t>(padded_);
  std::transform(e.threshold, e.threshold + padded_, threshold, [](int32_t t) { return t / 2 + (t > 0 && t % 2); });
  e.threshold = threshold;
}

void Lowering::border_tables(Conv& k, const Classes& rows, const Classes& cols) {
  const int64_t kw = op_.kernel[1], taps = op_.kernel[0] * kw, inputs = group_inputs();
  std::vector<int32_t> ones(size_t(taps * out_.channels));  // set bits of each filter's taps
  for (int64_t o = 0; o < out_.channels && op_.kind == Kind::binary_conv; ++o) {
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
        const uint32_t whole = uint32_t(r.count * c.count * inputs) + 2 * padded_ones;
        base[at + o] = int32_t(k.count == Count::triples ? whole / 2 : whole);
        if (bias) bias[at + o] = sum;
      }
      at += padded_;
    }
  }
  k.base = base;
  k.class_bias = bias;
}

}  // namespace bbg
