// From checked ops to kernel calls: layout of values, blocking of weights, tables for borders and epilogues.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "graph.h"
#include "kernels/kernels.h"

namespace bbg {

constexpr int64_t kMemoryLimit = int64_t{1} << 35;
constexpr int64_t kRoundImages = 16;  // most images that go through the network together

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Memory of 64-byte alignment that is freed with its owner.
class Memory {
 public:
  // Zeroed memory for `count` elements; a Refusal where that cannot be had.
  template <class T>
  T* make(int64_t count) {
    return static_cast<T*>(allocate(count, sizeof(T), true));
  }
  void* allocate(int64_t count, int64_t size, bool zeroed);
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<void, Free>> blocks_;
  int64_t bytes_ = 0;
};

// A kernel and what it works on. Its items are `rows` per image, or one for all images where they go `together`, and
// as many of them for each of the `blocks` of channels.
struct Step {
  Run run;
  const void* args;
  int64_t rows;
  int op;
  int64_t blocks = 1;
  bool together = false;
};

// Where the ops find values; pixel (0, 0) of image 0 is relative to the workspace until it is bound.
using Maps = std::vector<Map>;

// The layout of every value for a kernel set, `data` still null: margins as wide as the convolutions need them.
Maps lay_out(const Graph& graph, const Kernels& kernels);

// Where all an op does is repeat channels for shortcuts: those can repeat them on their own, as long as they find the
// channels as often as it takes to fill whole vectors. How many that is, else 0.
int64_t repeated(const Graph& graph, const Op& op, int lanes);

// Whether such an op need not run, since its input's channels fill whole vectors.
bool only_repeats(const Graph& graph, const Op& op, int lanes);

// Bytes of scratch that an op needs per image.
int64_t scratch_bytes(const Graph& graph, const Op& op, const Maps& maps, const Kernels& kernels);

// The max-pool that takes the rows of a convolution of bytes while they are in the cache, so that its result needs no
// memory; kNone where graph.ops[index] is none or more is done with its result.
int pool_behind(const Graph& graph, int index);

// Appends the steps of graph.ops[index]. `maps` are bound; `scratch` is the op's own; `members`: of the team.
void lower(const Graph& graph, int index, const Maps& maps, uint8_t* scratch, const Kernels& kernels, int64_t members,
           Memory& memory, std::vector<Step>& steps);

}  // namespace bbg
