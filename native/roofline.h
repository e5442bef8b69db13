// The speed limit of a kernel set on this core, measured.
#pragma once

namespace bbg {

// 10^9 products of bits per second of the plain xor, population count and addition loop; 0 where there is none.
double roofline(const char* kernel_set);

}  // namespace bbg
