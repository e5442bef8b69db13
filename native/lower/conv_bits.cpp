// Weights of binary convolutions. In the format a filter's bits are dense, in the order (tap, channel). The engine's
// activations have whole words per pixel, so the weights of every tap are cut into words alike: channel c of a tap is
// bit c % 32 of word c / 32, and bits behind the last channel are 0 in both, so that they never differ.
//
//   format    | tap 0: c0 ... cI-1 | tap 1: c0 ... cI-1 | ...                 one filter, without gaps
//   words     | c0 ... c31 | c32 ... cI-1 0 0 0 |  | c0 ... c31 | ...         tap 0, tap 1, ...
//
// Item by item, a filter per lane ([tap][word][lane]):
//
//   item (tap t, word w)     | filter o | filter o+1 | ... | filter o+lanes-1 |  (twice that for two vectors)
//   item (tap t, word w+1)   | ...
//
//   words        as drawn.
//   masked       Filters of several groups share a block, and each reads the words of all groups of the block. Bits of
//                foreign groups are masked out; the mask is arranged as the weights are.
//   two_pixels   Up to 16 channels: pixels are 16 bits, and a word is two neighbouring pixels. The weights of the tap
//                stand in both halves: the low one counts for one output, the high one for the next.
//   carry_save   [three taps][word][tap of three][lane]. Of each three words w0, w1, w2 the third is stored as
//                w0 ^ w1 ^ w2, to meet the parity of the activations (see the counter in kernels/vector_avx512.h).
//   lookup4      [tap][word][nibble][filter], a byte each. Filters of each 32 lie in the order 0, 16, 1, 17, ..., 15,
//                31: counts are widened to 16 bits by taking even and odd bytes, which gives 0 to 15 and 16 to 31.
//
//                  word        | n7 n6 n5 n4 n3 n2 n1 n0 |       nibble 0 is the lowest four bits
//                  nibble 0    | f0 | f16 | f1 | f17 | ... | f15 | f31 |     32 bytes: one vector
//                  nibble 1    | f0 | f16 | ...
#include <algorithm>

#include "lower/conv.h"

namespace bbg {
namespace {

// 32-bit words of weights per item of a block.
int64_t item_words(const LowerInput& in, CountMethod method, const ConvBlock& block) {
  const int64_t lanes = block.vectors * in.lanes;
  return method == CountMethod::lookup4 ? 2 * round_up(lanes, 32) : lanes;
}

// The eight nibbles of a word of filter number `filter` of a block, `width` bytes apart.
void store_nibbles(uint32_t* item, int64_t width, int64_t filter, uint32_t bits) {
  const int64_t in_vector = filter % 32, position = filter - in_vector + in_vector % 16 * 2 + in_vector / 16;
  uint8_t* to = reinterpret_cast<uint8_t*>(item) + position;
  for (int i = 0; i < 8; ++i, bits >>= 4) to[i * width] = uint8_t(bits & 15);
}

// The weights of a block, or the mask of its groups, for the words from `first_word` on of every tap.
uint32_t* arrange_block(const LowerInput& in, CountMethod method, const ConvBlock& block, int64_t first_word,
                        int64_t words, bool mask) {
  const int64_t taps = in.op.taps(), inputs = in.group_inputs(), width = item_words(in, method, block);
  const int64_t taps_per_item = method == CountMethod::carry_save ? 3 : 1;
  uint32_t* to = in.memory.make<uint32_t>(taps * words * width);
  for (int64_t lane = 0; lane < block.vectors * in.lanes && block.channel + lane < in.out.channels; ++lane) {
    const int64_t o = block.channel + lane, start = in.group_of(o) * inputs, end = start + inputs;
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t w = 0; w < words; ++w) {
        const int64_t word = 32 * (first_word + w), low = std::max(word, start), high = std::min(word + 32, end);
        if (low >= high) continue;
        uint32_t bits = uint32_t((uint64_t{1} << (high - low)) - 1);
        if (!mask) bits = filter_bits(in, o, t * inputs + low - start, high - low);
        bits <<= low - word;
        if (method == CountMethod::two_pixels) bits |= bits << 16;
        const int64_t item = (t / taps_per_item * words + w) * taps_per_item + t % taps_per_item;
        if (method == CountMethod::lookup4) {
          store_nibbles(to + item * width, width / 2, lane, bits);
        } else {
          to[item * width + lane] = bits;
        }
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

}  // namespace

CountMethod choose_count_method(const Graph& graph, const Op& op, const Layout& input, const Kernels& kernels) {
  constexpr int64_t kTwoPixelTaps = 4095;  // more would overflow 16-bit counts: 16 * 4096 = 2^16
  // Both measured on a Zen 5 core: the bits of a tap row from which on three words at a time pay, and the filters from
  // which on a block of 64 takes less time than blocks of 16.
  constexpr int64_t kLeastCarrySave = 96;
  constexpr int64_t kLeastLookup = 41;
  const Value &in = graph.input_of(op), &out = graph.result_of(op);
  const bool narrow = input.pixel == 2;
  // A single output has no neighbour in its row: what is next to it is another image, whose words lie elsewhere.
  const bool neighbours = out.width > 1 && op.stride[1] == 1;
  if (narrow && kernels.two_pixels && neighbours && op.groups == 1 && op.taps() <= kTwoPixelTaps) {
    return CountMethod::two_pixels;
  }
  if (op.groups > 1 || narrow) return CountMethod::masked;
  // The three words are those of three neighbouring taps. Half the accumulator must be whole, so K must be even.
  const bool long_enough = in.channels * op.kernel[1] >= kLeastCarrySave;
  const bool in_threes = op.kernel[1] % 3 == 0 && in.channels % 2 == 0;
  if (kernels.carry_save && in_threes && long_enough && !op.epilogue[BBG_SHIFT]) return CountMethod::carry_save;
  // The table kernel counts for 64 filters at a time, of which enough must exist, and shares weights of twice the size
  // among neighbouring pixels, of which there must be more than one.
  const bool fits = op.taps() <= kLookupBits / (8 * input.pixel);
  if (kernels.lookup4 && out.channels >= kLeastLookup && out.width > 1 && fits) return CountMethod::lookup4;
  return CountMethod::words;
}

uint32_t filter_bits(const LowerInput& in, int64_t channel, int64_t from, int64_t count) {
  const int64_t words = (in.op.taps() * in.group_inputs() + 63) / 64;
  const uint64_t* row = in.op.bit_weight.data + channel * words;
  const int64_t word = from / 64, shift = from % 64;
  uint64_t bits = row[word] >> shift;
  if (shift + count > 64) bits |= row[word + 1] << (64 - shift);
  return uint32_t(bits & ((uint64_t{1} << count) - 1));
}

void arrange_bits(const LowerInput& in, Conv& conv, std::vector<ConvBlock>& blocks) {
  const bool carry_save = conv.method == CountMethod::carry_save;
  const int64_t taps_per_item = carry_save ? 3 : 1;
  if (carry_save) conv.parity = in.scratch.images - (conv.input.at - conv.input.left);
  for (ConvBlock& block : blocks) {
    in.stop.check();
    const BlockRange range = block_range(in, block);
    const int64_t first = range.from / 32, words = (range.from + range.channels + 31) / 32 - first;
    const bool same_offsets = in.op.groups == 1 && &block != &blocks[0];
    block.items = int32_t(in.op.kernel[1] / taps_per_item * words);
    block.offsets = same_offsets ? blocks[0].offsets : make_offsets(in, conv, first * 4, words, 4, taps_per_item);
    const int64_t width = item_words(in, conv.method, block);
    block.row_weights = block.items * taps_per_item * width;
    uint32_t* weights = arrange_block(in, conv.method, block, first, words, false);
    if (carry_save) third_to_parity(weights, in.op.kernel[0] * block.items * 3, width);
    block.weights = weights;
    if (conv.method == CountMethod::masked) block.mask = arrange_block(in, conv.method, block, first, words, true);
  }
}

}  // namespace bbg
