// Memory that an engine owns, and the arithmetic of its sizes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "platform.h"

namespace bbg {

constexpr int64_t kMemoryLimit = int64_t{1} << 35;

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Blocks of memory, aligned to cache lines, that are freed with their owner.
class Memory {
 public:
  // At most `limit` bytes, of which `taken` belong to others.
  explicit Memory(int64_t limit = kMemoryLimit, int64_t taken = 0) : limit_(limit), taken_(taken) {}

  // Zeroed memory for `count` elements. Throws InvalidArgument where that cannot be had.
  template <class T>
  T* make(int64_t count) {
    return static_cast<T*>(allocate(count, sizeof(T), true));
  }
  template <class T>
  const T* copy(const std::vector<T>& from) {
    T* to = make<T>(int64_t(from.size()));
    std::copy(from.begin(), from.end(), to);
    return to;
  }
  template <class T>
  const T* copy(const T& from) {
    return copy(std::vector<T>{from});
  }
  void* allocate(int64_t count, int64_t size, bool zeroed);
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* p) const { free_aligned(p); }
  };
  std::vector<std::unique_ptr<void, Free>> blocks_;
  int64_t limit_, taken_, bytes_ = 0;
};

}  // namespace bbg
