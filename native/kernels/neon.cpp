#include "kernels.h"

namespace bbg {

const Kernels* kernels_neon() { return nullptr; }

}  // namespace bbg
