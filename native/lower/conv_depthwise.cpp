// Weights of convolutions whose filters have one channel each, that of their lane.
#include <algorithm>
#include <cstring>

#include "lower/conv.h"

namespace bbg {
namespace {

constexpr int64_t kMostStacked = int64_t{1} << 18;  // bytes of a member's words: they should stay in the cache

// Columns of the input that the windows of a row reach over, and words of each.
int64_t stacked_columns(const LowerInput& in) {
  return (in.out.width - 1) * in.op.stride[1] + (in.op.kernel[1] - 1) * in.op.dilation[1] + 1;
}
int64_t stacked_words(const LowerInput& in) {
  const int64_t per_word = 4 / in.kernels.byte_size;
  return (in.op.kernel[0] + per_word - 1) / per_word;
}
int64_t stacked_bytes(const LowerInput& in) {
  constexpr int64_t kVectors = 2;
  return stacked_words(in) * stacked_columns(in) * kVectors * in.lanes * 4;
}

}  // namespace

// Of real numbers: [tap][lane].
void arrange_depthwise(const LowerInput& in, const Conv& conv, std::vector<ConvBlock>& blocks) {
  const int64_t taps = in.op.taps();
  const int32_t* offsets = make_offsets(in, conv, 0, 1, 0, 1);
  for (ConvBlock& block : blocks) {
    in.stop.check();
    const int64_t width = block.vectors * in.lanes;
    block.items = int32_t(in.op.kernel[1]);
    block.offsets = offsets;
    block.width = int32_t(width);
    block.row_weights = block.items * width;
    float* weights = in.memory.make<float>(taps * width);
    for (int64_t o = block.channel; o < std::min(block.channel + width, in.out.channels); ++o) {
      for (int64_t t = 0; t < taps; ++t) weights[t * width + o - block.channel] = in.op.float_weight[o * taps + t];
    }
    block.weights = weights;
  }
}

// Whether the kernel for bytes takes this convolution: one whose words are not too many.
bool can_stack_taps(const LowerInput& in) {
  const Op& op = in.op;
  return op.kind() == Kind::byte_conv && in.graph.is_depthwise(op) && stacked_bytes(in) <= kMostStacked;
}

// Of bytes: [word][tap of the row][lane], a word being as many taps above each other as it has numbers.
//
//   3 x 3, four numbers to a word       | w00 w10 w20 0 | w00 w10 w20 0 | ... lanes      tap 0
//                                       | w01 w11 w21 0 | ...                            tap 1
//                                         filter o        filter o+1
void stack_taps(const LowerInput& in, Conv& conv, std::vector<ConvBlock>& blocks) {
  const Op& op = in.op;
  const int64_t size = in.kernels.byte_size, per_word = 4 / size, words = stacked_words(in), cols = op.kernel[1];
  conv.stacked = {kNowhere, round_up(stacked_bytes(in), int64_t(kCacheLine)), stacked_columns(in), op.stride[1],
                  op.dilation[1]};
  conv.stacked.buffer = in.scratch.take(in.members, conv.stacked.bytes);
  for (ConvBlock& block : blocks) {
    in.stop.check();
    const int64_t width = block.vectors * in.lanes, last = std::min(block.channel + width, in.out.channels);
    block.items = int32_t(cols);
    block.row_weights = cols * width;
    uint8_t* to = in.memory.make<uint8_t>(words * block.row_weights * 4);
    const int8_t* weight = op.byte_weight.data + block.channel * op.taps();
    for (int64_t o = block.channel; o < last; ++o) {
      for (int64_t ky = 0; ky < op.kernel[0]; ++ky) {
        for (int64_t kx = 0; kx < cols; ++kx, ++weight) {
          const int64_t item = ky / per_word * cols + kx;
          const int16_t wide = *weight;  // little-endian: its first byte is the narrow one
          std::memcpy(to + (item * width + o - block.channel) * 4 + ky % per_word * size, &wide, size_t(size));
        }
      }
    }
    block.weights = to;
  }
}

}  // namespace bbg
