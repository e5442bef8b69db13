// The one exception of the native half.
#pragma once

#include <stdexcept>

namespace bbg {

// A request that is refused; its text is the sentence the caller gets.
struct InvalidArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace bbg
