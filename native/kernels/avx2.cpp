#include "kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "unroll.h"

#define BBG_INLINE inline __attribute__((always_inline))
#define BBG_BLOCK __attribute__((noinline))
#define BBG_SET "avx2"
#define BBG_HAS_TWO_PIXELS 1
#define BBG_HAS_CARRY_SAVE 0
#define BBG_HAS_LOOKUP4 1
#define BBG_HAS_TAIL_BYTES 0
#define BBG_HAS_TILES 0

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace bbg {
namespace {

#include "vector_avx2.h"

#include "kernels.inl"

}  // namespace
}  // namespace bbg

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace bbg {
const Kernels* kernels_avx2() { return &table; }
}  // namespace bbg

#else

namespace bbg {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace bbg

#endif
