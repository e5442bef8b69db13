// Inside of ops.cpp and convs.cpp: one op on its way to kernel calls.
#pragma once

#include <algorithm>
#include <tuple>
#include <vector>

#include "plan/layout.h"

namespace bbg {

// A real convolution whose filters have a channel each.
bool is_depthwise(const Graph& graph, const Op& op);

inline bool is_conv(const Op& op) {
  return op.kind == Kind::conv || op.kind == Kind::byte_conv || op.kind == Kind::binary_conv;
}

// Taps of one output position that lie inside the map, in one direction.
struct Taps {
  int64_t first, count;
  bool operator<(const Taps& o) const { return std::tie(first, count) < std::tie(o.first, o.count); }
};

Taps valid_taps(const Op& op, int axis, int64_t position, int64_t size);

struct Classes;  // of borders

// How a binary convolution counts.
Count counting(const Op& op, const Value& in, const Value& out, const Map& input, const Kernels& kernels);

template <class T>
const T* copy(Memory& memory, const std::vector<T>& from) {
  T* to = memory.make<T>(int64_t(from.size()));
  std::copy(from.begin(), from.end(), to);
  return to;
}

class Lowering {
 public:
  Lowering(const Graph& graph, const Op& op, const Maps& maps, uint8_t* scratch, const Kernels& kernels, int64_t members,
           Memory& memory)
      : graph_(graph), op_(op), in_(graph.values[size_t(op.input())]), out_(graph.values[size_t(op.result())]), maps_(maps),
        scratch_(scratch), kernels_(kernels), members_(members), memory_(memory), lanes_(kernels.lanes),
        channels_(maps[size_t(op.result())].channels), padded_(round_up(channels_, kernels.lanes)) {}

  void steps(int index, std::vector<Step>& steps);
  ConvPool conv_pool(Lowering& behind);

 private:
  Map map(int value) const { return value == kNone ? Map{} : maps_[size_t(value)]; }

  template <class T, class From>
  const T* padded(const Tensor<From>& row, T absent, T pad) {
    T* to = memory_.make<T>(padded_);
    for (int64_t c = 0; c < padded_; ++c) to[c] = c >= out_.channels ? pad : row ? row[c] : absent;
    return to;
  }

  Epilogue epilogue();
  Conv conv();
  std::vector<ConvBlock> blocks(int64_t vectors);
  void arrange_bits(Conv& k, std::vector<ConvBlock>& blocks);
  void arrange_reals(Conv& k, std::vector<ConvBlock>& blocks);
  void arrange_depthwise(Conv& k, std::vector<ConvBlock>& blocks);
  void arrange_bytes(Conv& k, std::vector<ConvBlock>& blocks);
  Rests rests(int64_t from);
  const int32_t* offsets(const Conv& k, int64_t first, int64_t items, int64_t step, int64_t taps_per_item);
  int64_t item_words(const Conv& k, const ConvBlock& b) const;
  uint32_t* block_bits(const Conv& k, const ConvBlock& b, int64_t first_word, int64_t words, bool mask);
  void double_scale(Epilogue& e);
  void border_tables(Conv& k, const Classes& rows, const Classes& cols);
  const Window* windows(int axis, int64_t positions, int64_t size);
  Pool pool();
  Gather gather();
  Step value_step(int index);
  template <class T>
  const T* keep(const T& args) {
    return copy(memory_, std::vector<T>{args});
  }

  int64_t group_of(int64_t channel) const { return channel / (out_.channels / op_.groups); }
  int64_t group_inputs() const { return in_.channels / op_.groups; }
  uint32_t filter_bits(int64_t channel, int64_t from, int64_t count) const;

  const Graph& graph_;
  const Op& op_;
  const Value &in_, &out_;
  const Maps& maps_;
  uint8_t* scratch_;
  const Kernels& kernels_;
  const int64_t members_;  // of the team
  Memory& memory_;
  const int64_t lanes_, channels_, padded_;  // channels that are stored
};

}  // namespace bbg
