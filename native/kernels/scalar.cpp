#include "kernels.h"

#define BBG_INLINE inline
#define BBG_BLOCK inline
#define BBG_UNROLL
#define BBG_SET "scalar"
#define BBG_HAS_PAIRS 0
#define BBG_HAS_TRIPLES 0
#define BBG_HAS_NIBBLES 0
#define BBG_HAS_RESTS 0

namespace bbg {
namespace {

#include "vector_scalar.h"

#include "kernels.inl"

}  // namespace

const Kernels* kernels_scalar() { return &table; }

}  // namespace bbg
