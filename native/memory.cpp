#include "memory.h"

#include <string>

#include "errors.h"

namespace bbg {

void* Memory::allocate(int64_t count, int64_t size, bool zeroed) {
  const int64_t room = limit_ - taken_ - bytes_;
  if (count > (room - int64_t(kCacheLine)) / size) {
    throw InvalidArgument("the network takes more memory than the " + std::to_string(limit_) +
                          " bytes that limits.memory allows");
  }
  const int64_t bytes = round_up(std::max<int64_t>(count * size, 1), int64_t(kCacheLine));
  void* p = allocate_aligned(size_t(bytes));
  if (!p) throw InvalidArgument("there is no memory for " + std::to_string(bytes) + " bytes");
  blocks_.emplace_back(p);
  bytes_ += bytes;
  if (zeroed) std::fill_n(static_cast<char*>(p), bytes, char(0));
  return p;
}

}  // namespace bbg
