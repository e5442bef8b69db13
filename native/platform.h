// What depends on the operating system or the processor, outside of the kernels: one place to look at for a port.
#pragma once

#include <unistd.h>

#include <cstddef>
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

// Tells the core that this is a spinning wait.
inline void pause_core() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace bbg
