#include "kernels.h"

#if defined(__x86_64__) && !defined(BBG_WITHOUT_AMX)

#include <immintrin.h>

#include "unroll.h"

#define BBG_INLINE inline __attribute__((always_inline))
#define BBG_BLOCK __attribute__((noinline))
#define BBG_SET "amx"
#define BBG_HAS_TWO_PIXELS 1
#define BBG_HAS_CARRY_SAVE 1
#define BBG_HAS_LOOKUP4 0
#define BBG_HAS_TAIL_BYTES 1
#define BBG_HAS_TILES 1

#if defined(__clang__)
#pragma clang attribute push(                                                                                             \
    __attribute__((target(                                                                                                \
        "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx512bitalg,avx512vpopcntdq,fma,amx-tile,amx-int8"))), \
    apply_to = function)
#else
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of the intrinsics: GCC bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx512bitalg,avx512vpopcntdq,fma,amx-tile,amx-int8,prefer-vector-width=512")
#endif

namespace bbg {
namespace {

#include "vector_avx512.h"

#include "kernels.inl"

}  // namespace
}  // namespace bbg

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace bbg {
const Kernels* kernels_amx() { return &table; }
}  // namespace bbg

#else

namespace bbg {
const Kernels* kernels_amx() { return nullptr; }
}  // namespace bbg

#endif
