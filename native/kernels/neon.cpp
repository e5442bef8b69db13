#include "kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "unroll.h"

#define BBG_INLINE inline __attribute__((always_inline))
#define BBG_BLOCK __attribute__((noinline))
#define BBG_SET "neon"
#define BBG_HAS_TWO_PIXELS 0
#define BBG_HAS_CARRY_SAVE 0
#define BBG_HAS_LOOKUP4 0
#define BBG_HAS_TAIL_BYTES 0
#define BBG_HAS_TILES 0

namespace bbg {
namespace {

#include "vector_neon.h"

#include "kernels.inl"

}  // namespace

const Kernels* kernels_neon() { return &table; }

}  // namespace bbg

#else

namespace bbg {
const Kernels* kernels_neon() { return nullptr; }
}  // namespace bbg

#endif
