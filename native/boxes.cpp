#include "boxes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "errors.h"

namespace bbg {
namespace {

constexpr float kFarthest = 10;  // the logarithm of a side over its prior's is held below this, where exp stays finite

struct Candidate {
  Detected what;
  int64_t prior;

  // The order of a heap, whose top is the best.
  bool operator<(const Candidate& other) const {
    if (what.share != other.what.share) return what.share < other.what.share;
    if (what.number != other.what.number) return what.number > other.what.number;
    return prior > other.prior;
  }
};

struct OfClass {
  int64_t looked_at = 0;
  std::vector<Box> kept;
};

bool finite(const float* numbers, int64_t count) {
  int odd = 0;
  for (int64_t i = 0; i < count; ++i) odd |= !(std::fabs(numbers[i]) <= std::numeric_limits<float>::max());
  return !odd;
}

Box decoded(const float* offset, const float* prior, const Choice& choice) {
  const float x = prior[0] + choice.move * offset[0] * prior[2];
  const float y = prior[1] + choice.move * offset[1] * prior[3];
  const float wide = std::exp(std::min(choice.scale * offset[2], kFarthest)) * prior[2] / 2;
  const float high = std::exp(std::min(choice.scale * offset[3], kFarthest)) * prior[3] / 2;
  const auto cut = [](float side) { return std::clamp(side, 0.0f, 1.0f); };
  return {cut(x - wide), cut(y - high), cut(x + wide), cut(y + high)};
}

// IoU > overlap, without a division: both > overlap (a + b - both).
bool overlaps(const Box& a, const Box& b, double overlap) {
  const float across = std::max(0.0f, std::min(a.right, b.right) - std::max(a.left, b.left));
  const float down = std::max(0.0f, std::min(a.bottom, b.bottom) - std::max(a.top, b.top));
  const float both = across * down;
  return (1 + overlap) * both > overlap * (a.area() + b.area());
}

std::vector<Candidate> candidates(const Seen& seen, const Choice& choice) {
  // A probability is below its ratio to that of the background, so most priors need no softmax.
  const float least = float(std::log(std::max(choice.score, 1e-9)) - 1e-3);
  const int64_t columns = 1 + seen.classes;
  std::vector<double> odds(static_cast<size_t>(columns));
  std::vector<Candidate> found;
  for (int64_t p = 0; p < seen.count; ++p) {
    const float* logits = seen.logits + p * columns;
    const float bound = logits[0] + least;
    int likely = 0;
    for (int64_t c = 1; c < columns; ++c) likely |= logits[c] >= bound;
    if (!likely) continue;
    const Box box = decoded(seen.offsets + 4 * p, seen.priors + 4 * p, choice);
    if (!(box.right > box.left && box.bottom > box.top)) continue;
    const float best = *std::max_element(logits, logits + columns);
    double sum = 0;
    for (int64_t c = 0; c < columns; ++c) sum += odds[size_t(c)] = std::exp(double(logits[c] - best));
    for (int64_t c = 1; c < columns; ++c) {
      const double share = odds[size_t(c)] / sum;
      if (share >= choice.score) found.push_back({{box, c - 1, share}, p});
    }
  }
  return found;
}

}  // namespace

std::vector<Detected> detect(const Seen& seen, const Choice& choice) {
  if (!finite(seen.offsets, 4 * seen.count) || !finite(seen.logits, (1 + seen.classes) * seen.count)) {
    throw InvalidArgument("an output of the detector is not finite");
  }
  // A heap, sorted only as far as needed: a network that is sure of nothing has 100,000 candidates.
  std::vector<Candidate> heap = candidates(seen, choice);
  std::make_heap(heap.begin(), heap.end());
  std::vector<OfClass> classes(static_cast<size_t>(seen.classes));
  std::vector<Detected> found;
  while (!heap.empty() && int64_t(found.size()) < choice.most) {
    const Detected best = heap.front().what;
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    OfClass& own = classes[size_t(best.number)];
    if (own.looked_at++ >= choice.each) continue;
    const auto drops = [&](const Box& better) { return overlaps(better, best.box, choice.overlap); };
    if (std::any_of(own.kept.begin(), own.kept.end(), drops)) continue;
    own.kept.push_back(best.box);
    found.push_back(best);
  }
  return found;
}

}  // namespace bbg
