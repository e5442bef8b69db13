// Loops over register blocks, which must be unrolled so that their arrays become registers.
#pragma once

#if !defined(BBG_UNROLL)
#if defined(__clang__)
#define BBG_UNROLL _Pragma("clang loop unroll(full)")
#else
#define BBG_UNROLL _Pragma("GCC unroll 16")
#endif
#endif

#define BBG_FOR(i, count) BBG_UNROLL for (int i = 0; i < (count); ++i)
