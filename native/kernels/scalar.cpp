#include "kernels.h"

#define BBG_INLINE inline
#define BBG_BLOCK inline
#define BBG_UNROLL
#define BBG_HAS_PAIRS 0
#define BBG_HAS_TRIPLES 0
#define BBG_HAS_NIBBLES 0
#define BBG_HAS_RESTS 0

namespace bbg {
namespace {

#include "vector_scalar.h"

#include "kernels.inl"

const Kernels table = {"scalar", kLanes, kByteSize, BBG_HAS_PAIRS, BBG_HAS_TRIPLES, BBG_HAS_NIBBLES, BBG_HAS_RESTS,
                       binary_conv, parity, conv, depthwise, conv_pool, pool, pool_bits, match, gather, multiply, curve,
                       layer_norm};

}  // namespace

const Kernels* kernels_scalar() { return &table; }

}  // namespace bbg
