// The boxes that a detector saw, of its offsets and logits.
#pragma once

#include <cstdint>
#include <vector>

namespace bbg {

// What a network says of one image, for each of `count` priors.
struct Seen {
  const float* offsets;  // [count, 4], from the prior: of the middle, and of the logarithms of the sides
  const float* logits;   // [count, 1 + classes], the background first
  const float* priors;   // [count, 4]: middle, width, height
  int64_t count;
  int64_t classes;
};

// `move`, `scale`: what an offset of 1 moves the middle by, over the side, and adds to the logarithm of the side.
// `score`: the least probability. `overlap`: the largest intersection over union with a better box of the same class
// that is kept. `each`: so many of the best boxes of a class are looked at. `most`: so many are kept in all.
struct Choice {
  float move;
  float scale;
  double score;
  double overlap;
  int64_t each;
  int64_t most;
};

struct Box {
  float left, top, right, bottom;  // in shares of the image's sides, cut at its edges

  float area() const { return (right - left) * (bottom - top); }
};

struct Detected {
  Box box;
  int64_t number;  // of its class, without the background
  double share;    // its probability
};

// What is kept, from the best probability down; of equal ones the lower class is the better one, then the first prior.
// Boxes that lie outside of the image are none. Throws InvalidArgument where a number is not finite.
std::vector<Detected> detect(const Seen& seen, const Choice& choice);

}  // namespace bbg
