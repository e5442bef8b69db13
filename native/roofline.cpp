// What the kernels are measured against: xor with a broadcast word, population count, addition, and nothing around
// them. Sums and weights stay in registers, the words in the first cache; no borders, no epilogue, no addresses to
// compute. The product of two bits is one MAC.
#include "roofline.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"
#include "kernels/unroll.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of the intrinsics: GCC bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace bbg {
namespace {

constexpr int64_t kWords = 1792;  // 7 KB; a multiple of what every loop takes at a time
constexpr int kBytewise = 28;     // steps between two widenings where a byte counts: at most 8 more in each

// One pass over the words; returns the number of MACs. Writing the sums keeps the work from being left out.
using Loop = int64_t (*)(const uint32_t* words, uint32_t* sums);

#if defined(__x86_64__)

// Seven pixels, two vectors of filters, as in most layers.
__attribute__((target("avx512f,avx512vpopcntdq"), noinline)) int64_t loop_avx512(const uint32_t* words,
                                                                                 uint32_t* sums) {
  constexpr int P = 7, V = 2;
  __m512i count[P][V], weight[V];
  BBG_FOR(v, V) weight[v] = _mm512_loadu_si512(words + 16 * v);
  BBG_FOR(p, P)
    BBG_FOR(v, V) count[p][v] = _mm512_setzero_si512();
  for (int64_t i = 0; i < kWords; i += P) {
    BBG_FOR(p, P) {
      const __m512i word = _mm512_set1_epi32(int32_t(words[i + p]));
      BBG_FOR(v, V) {
        count[p][v] = _mm512_add_epi32(count[p][v], _mm512_popcnt_epi32(_mm512_xor_si512(word, weight[v])));
      }
    }
  }
  __m512i sum = _mm512_setzero_si512();
  BBG_FOR(p, P) {
    BBG_FOR(v, V) sum = _mm512_add_epi32(sum, count[p][v]);
  }
  _mm512_storeu_si512(sums, sum);
  return kWords * V * 512;
}

// The classic way without a vector instruction that counts: two lookups of nibbles, sums in bytes.
__attribute__((target("avx2"), noinline)) int64_t loop_avx2(const uint32_t* words, uint32_t* sums) {
  constexpr int P = 4, V = 2;
  const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i total = _mm256_setzero_si256(), weight[V];
  BBG_FOR(v, V) weight[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + 8 * v));
  for (int64_t first = 0; first < kWords; first += P * kBytewise) {
    __m256i bytes[P][V];
    BBG_FOR(p, P)
      BBG_FOR(v, V) bytes[p][v] = _mm256_setzero_si256();
    for (int64_t i = first; i < first + P * kBytewise; i += P) {
      BBG_FOR(p, P) {
        const __m256i word = _mm256_set1_epi32(int32_t(words[i + p]));
        BBG_FOR(v, V) {
          const __m256i x = _mm256_xor_si256(word, weight[v]);
          const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
          const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
          bytes[p][v] = _mm256_add_epi8(bytes[p][v], _mm256_add_epi8(low, high));
        }
      }
    }
    BBG_FOR(p, P) {
      BBG_FOR(v, V) {
        total = _mm256_add_epi64(total, _mm256_sad_epu8(bytes[p][v], _mm256_setzero_si256()));
      }
    }
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), total);
  return kWords * V * 256;
}

#define BBG_POPCNT __attribute__((target("popcnt"), noinline))
#else
#define BBG_POPCNT __attribute__((noinline))
#endif

#if defined(__aarch64__)

__attribute__((noinline)) int64_t loop_neon(const uint32_t* words, uint32_t* sums) {
  constexpr int P = 4, V = 4;
  uint32x4_t total = vdupq_n_u32(0), weight[V];
  BBG_FOR(v, V) weight[v] = vld1q_u32(words + 4 * v);
  for (int64_t first = 0; first < kWords; first += P * kBytewise) {
    uint8x16_t bytes[P][V];
    BBG_FOR(p, P)
      BBG_FOR(v, V) bytes[p][v] = vdupq_n_u8(0);
    for (int64_t i = first; i < first + P * kBytewise; i += P) {
      BBG_FOR(p, P) {
        const uint32x4_t word = vdupq_n_u32(words[i + p]);
        BBG_FOR(v, V) {
          bytes[p][v] = vaddq_u8(bytes[p][v], vcntq_u8(vreinterpretq_u8_u32(veorq_u32(word, weight[v]))));
        }
      }
    }
    BBG_FOR(p, P) {
      BBG_FOR(v, V) total = vpadalq_u16(total, vpaddlq_u8(bytes[p][v]));
    }
  }
  vst1q_u32(sums, total);
  return kWords * V * 128;
}

#endif

// 64 bits at a time, with the processor's own instruction on x86.
BBG_POPCNT int64_t loop_scalar(const uint32_t* words, uint32_t* sums) {
  constexpr int V = 4;
  uint64_t count[V] = {}, weight[V];
  __builtin_memcpy(weight, words, sizeof weight);
  for (int64_t i = 0; i < kWords; i += 2) {
    uint64_t word;
    __builtin_memcpy(&word, words + i, sizeof word);
    BBG_FOR(v, V) count[v] += uint64_t(__builtin_popcountll(word ^ weight[v]));
  }
  sums[0] = uint32_t(count[0] + count[1] + count[2] + count[3]);
  return kWords / 2 * V * 64;
}

Loop loop_of(const char* name) {
#if defined(__x86_64__)
  if (!std::strcmp(name, "avx512") || !std::strcmp(name, "amx")) return loop_avx512;  // tiles multiply no bits
  if (!std::strcmp(name, "avx2")) return loop_avx2;
  if (!__builtin_cpu_supports("popcnt")) return nullptr;
#elif defined(__aarch64__)
  if (!std::strcmp(name, "neon")) return loop_neon;
#endif
  return std::strcmp(name, "scalar") ? nullptr : loop_scalar;
}

// Some 50 microseconds at a time, so that a busy machine leaves some of the rounds alone.
double fastest(Loop loop) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 100;
  constexpr double kRound = 50e-6;
  uint32_t words[kWords], sums[16];
  for (int64_t i = 0; i < kWords; ++i) words[i] = uint32_t(i) * 2654435761u;
  double best = std::numeric_limits<double>::infinity();  // seconds per MAC
  for (int64_t round = 0, passes = 1; round < kRounds;) {
    int64_t macs = 0;
    const auto began = Clock::now();
    for (int64_t i = 0; i < passes; ++i) macs += loop(words, sums);
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    if (seconds < kRound) {
      passes *= 2;
      continue;
    }
    best = std::min(best, seconds / double(macs));
    ++round;
  }
  return best;
}

}  // namespace

double roofline(const char* name) {
  const KernelSet* sets = kernel_sets();
  for (int i = 0; i < kKernelSets; ++i) {
    if (std::strcmp(sets[i].name, name) || !sets[i].kernels) continue;
    if (const Loop loop = loop_of(name)) return 1e-9 / fastest(loop);
  }
  return 0;
}

}  // namespace bbg
