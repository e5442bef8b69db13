// The checked graph: what docs/format.md allows, and nothing else, reaches the engine.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bbg.h"

namespace bbg {

// A request that is refused; its text is the sentence the caller gets.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Type { real, bits, bytes };

enum class Kind {
  conv, byte_conv, binary_conv, max_pool, avg_pool, adaptive_avg_pool, match_channels, pointwise,
  concat, select, multiply, tanh, sigmoid, silu, hardswish, gelu, layer_norm, max_pool_bits
};

struct Value {
  std::string name;
  Type type = Type::real;
  int64_t channels = 0, height = 0, width = 0;
  int writer = -1;  // op; -1: the graph's input
};

// A borrowed array whose size has been checked.
template <class T>
struct Tensor {
  const T* data = nullptr;
  int64_t count = 0;
  explicit operator bool() const { return data != nullptr; }
  const T& operator[](int64_t i) const { return data[i]; }
};

using Pair = std::array<int64_t, 2>;

constexpr int kNone = -1;

struct Op {
  std::string name;
  Kind kind{};
  std::vector<int> operands;  // values, at least one; one may come more than once
  int shortcut = kNone, real = kNone, bits = kNone, bytes = kNone;  // values
  Pair kernel{1, 1}, stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t groups = 1;
  bool ceil_mode = false, count_include_pad = false;
  float eps = 0, low = 0, high = 0;
  Tensor<float> real_weight;
  Tensor<int8_t> byte_weight;
  Tensor<uint64_t> bit_weight, and_mask;
  Tensor<int32_t> threshold, index;
  Tensor<float> tap_bias;
  std::array<Tensor<float>, BBG_ROWS> rows;

  int result() const { return real != kNone ? real : bits != kNone ? bits : bytes; }
  int input() const { return operands[0]; }
  bool has_operand(int value) const { return std::find(operands.begin(), operands.end(), value) != operands.end(); }
  bool clipped() const;
};

struct Graph {
  std::vector<Value> values;  // the first is the input
  std::vector<Op> ops;
  std::vector<int> outputs;

  Graph(const char* input, Type type, int64_t channels, int64_t height, int64_t width);
  void add(const bbg_op& description);
  void add_output(const char* value);
  int find(const char* value) const;  // kNone where there is none
};

}  // namespace bbg

struct bbg_graph {
  bbg::Graph graph;
};
