#include "kernels.h"

namespace bbg {

const Kernels* kernels_avx512() { return nullptr; }

}  // namespace bbg
