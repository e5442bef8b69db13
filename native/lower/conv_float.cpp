// Weights of real convolutions: [tap][input channel][lane], a filter per lane, so that one load takes the weights of an
// item for a whole vector of filters.
//
//   item (tap t, channel c)     | filter o | filter o+1 | ... | filter o+lanes-1 |  (twice that for two vectors)
//   item (tap t, channel c+1)   | ...
//
// Filters of several groups share a block. Each reads the channels of all groups of the block; weights of foreign
// groups are 0. For one output pixel (a linear layer) reading the weights is the bottleneck: the items of a block that
// is not full then follow each other without gaps, and its unused lanes read what lies behind.
#include <algorithm>

#include "lower/conv.h"

namespace bbg {

void arrange_floats(const LowerInput& in, const Conv& conv, std::vector<ConvBlock>& blocks) {
  constexpr int64_t kFloatBytes = sizeof(float);
  const int64_t inputs = in.group_inputs(), taps = in.op.taps();
  const bool one_pixel = in.out.height * in.out.width == 1;
  for (ConvBlock& block : blocks) {
    in.stop.check();
    const BlockRange range = block_range(in, block);
    const int64_t lanes = block.vectors * in.lanes, width = one_pixel ? range.last + 1 - block.channel : lanes;
    const bool same_offsets = in.op.groups == 1 && &block != &blocks[0];
    block.items = int32_t(in.op.kernel[1] * range.channels);
    block.offsets = same_offsets ? blocks[0].offsets
                                 : make_offsets(in, conv, range.from * kFloatBytes, range.channels, kFloatBytes, 1);
    block.width = int32_t(width);
    block.row_weights = block.items * width;
    float* weights = in.memory.make<float>(taps * range.channels * width + lanes);
    for (int64_t o = block.channel; o <= range.last; ++o) {
      const int64_t shift = in.group_of(o) * inputs - range.from;
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t c = 0; c < inputs; ++c) {
          const int64_t item = t * range.channels + shift + c;
          weights[item * width + o - block.channel] = in.op.float_weight[(o * taps + t) * inputs + c];
        }
      }
    }
    block.weights = weights;
  }
}

}  // namespace bbg
