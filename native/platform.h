// What depends on the operating system or the processor, outside of the kernels: one place to look at for a port.
#pragma once

#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bbg {

constexpr size_t kCacheLine = 64;

// Memory aligned to a cache line; null where there is none. `bytes`: a multiple of kCacheLine.
inline void* allocate_aligned(size_t bytes) { return std::aligned_alloc(kCacheLine, bytes); }
inline void free_aligned(void* p) { std::free(p); }

// Differs between a process and its forked child, which has none of the parent's threads.
using ProcessId = pid_t;
inline ProcessId process_id() { return getpid(); }

// Time since some moment, right to some milliseconds: read in a quarter of the time that a precise clock takes.
inline int64_t coarse_milliseconds() {
#if defined(CLOCK_MONOTONIC_COARSE)
  constexpr clockid_t kClock = CLOCK_MONOTONIC_COARSE;
#else
  constexpr clockid_t kClock = CLOCK_MONOTONIC;
#endif
  timespec now;
  clock_gettime(kClock, &now);
  return int64_t(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

// Tells the core that this is a spinning wait.
inline void pause_core() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace bbg
