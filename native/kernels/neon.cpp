#include "kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#define BBG_INLINE inline __attribute__((always_inline))
#define BBG_BLOCK __attribute__((noinline))
#define BBG_HAS_PAIRS 0
#define BBG_HAS_TRIPLES 0
#define BBG_HAS_NIBBLES 0
#define BBG_HAS_RESTS 0

#if defined(__clang__)
#define BBG_UNROLL _Pragma("clang loop unroll(full)")
#else
#define BBG_UNROLL _Pragma("GCC unroll 16")
#endif

namespace bbg {
namespace {

#include "vector_neon.h"

#include "kernels.inl"

const Kernels table = {"neon", kLanes, kByteSize, BBG_HAS_PAIRS, BBG_HAS_TRIPLES, BBG_HAS_NIBBLES, BBG_HAS_RESTS,
                       binary_conv, parity, conv, depthwise, conv_pool, pool, pool_bits, match, gather, multiply, curve,
                       layer_norm};

}  // namespace

const Kernels* kernels_neon() { return &table; }

}  // namespace bbg

#else

namespace bbg {
const Kernels* kernels_neon() { return nullptr; }
}  // namespace bbg

#endif
