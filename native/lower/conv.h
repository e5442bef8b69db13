// Inside of lower/conv*.cpp: the parts of a convolution's lowering.
#pragma once

#include <vector>

#include "lower/lower.h"

namespace bbg {

void lower_conv(const LowerInput& in, int index, std::vector<KernelCall>& calls);

// The arguments of the convolution kernels.
Conv make_conv(const LowerInput& in);

// ---- conv_float.cpp: weights of real convolutions -------------------------------------------------------------------

void arrange_floats(const LowerInput& in, const Conv& conv, std::vector<ConvBlock>& blocks);

// ---- conv_bytes.cpp: weights of convolutions of bytes ---------------------------------------------------------------

void arrange_bytes(const LowerInput& in, Conv& conv, std::vector<ConvBlock>& blocks);

// ---- conv_depthwise.cpp: weights where each filter has one channel, its own -----------------------------------------

void arrange_depthwise(const LowerInput& in, const Conv& conv, std::vector<ConvBlock>& blocks);
bool can_stack_taps(const LowerInput& in);
void stack_taps(const LowerInput& in, Conv& conv, std::vector<ConvBlock>& blocks);

// ---- conv_bits.cpp: weights of binary convolutions ------------------------------------------------------------------

CountMethod choose_count_method(const Graph& graph, const Op& op, const Layout& input, const Kernels& kernels);
void arrange_bits(const LowerInput& in, Conv& conv, std::vector<ConvBlock>& blocks);
// Up to 32 bits of filter `channel` from its bit `from` on.
uint32_t filter_bits(const LowerInput& in, int64_t channel, int64_t from, int64_t count);

// ---- shared by these --------------------------------------------------------------------------------------------

// The last filter of a block, and the input channels that its filters read: those of all their groups.
struct BlockRange {
  int64_t last, from, channels;
};
BlockRange block_range(const LowerInput& in, const ConvBlock& block);

// ConvBlock::offsets: bytes from the window's first tap to each item. Every `taps_per_item`-th tap of each tap row has
// `items` items, the first `first` bytes into the tap, each `step` bytes behind the one before.
const int32_t* make_offsets(const LowerInput& in, const Conv& conv, int64_t first, int64_t items, int64_t step,
                            int64_t taps_per_item);

}  // namespace bbg
