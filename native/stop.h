// A caller's wish to end what it has begun.
#pragma once

#include <cstdint>

#include "errors.h"
#include "platform.h"

namespace bbg {

constexpr char kInterrupted[] = "interrupted";

// Whether the caller wants no more: asked about every tenth of a second, by the caller's thread only.
class StopRequest {
 public:
  StopRequest(int (*stop)(void* context), void* context) : stop_(stop), context_(context) {}

  bool asked() {
    if (!stop_) return false;
    const int64_t now = coarse_milliseconds();
    if (now < next_) return false;
    next_ = now + kApart;
    return stop_(context_) != 0;
  }

  // Throws InvalidArgument where it is so.
  void check() {
    if (asked()) throw InvalidArgument(kInterrupted);
  }

 private:
  int (*stop_)(void* context);
  void* context_;
  int64_t next_ = coarse_milliseconds() + kApart;  // when to ask again

  static constexpr int64_t kApart = 100;
};

}  // namespace bbg
