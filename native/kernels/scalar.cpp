#include "kernels.h"

#define BBG_INLINE inline
#define BBG_BLOCK inline
#define BBG_UNROLL  // left to the compiler
#define BBG_SET "scalar"
#define BBG_HAS_TWO_PIXELS 0
#define BBG_HAS_CARRY_SAVE 0
#define BBG_HAS_LOOKUP4 0
#define BBG_HAS_TAIL_BYTES 0
#define BBG_HAS_TILES 0

#include "unroll.h"

namespace bbg {
namespace {

#include "vector_scalar.h"

#include "kernels.inl"

}  // namespace

const Kernels* kernels_scalar() { return &table; }

}  // namespace bbg
