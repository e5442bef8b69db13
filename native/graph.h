// The checked graph: what docs/format.md allows, and nothing else, reaches the engine.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "bbg.h"
#include "errors.h"
#include "kinds.h"

namespace bbg {

struct Shape {
  int64_t channels = 0, height = 0, width = 0;
  int64_t numbers() const { return channels * height * width; }
  bool operator==(const Shape& o) const { return channels == o.channels && height == o.height && width == o.width; }
};

constexpr int kNone = -1;

struct Value : Shape {
  std::string name;
  Type type = Type::real;
  int writer = kNone;        // op; kNone: the graph's input
  std::vector<int> readers;  // ops, once for each time that the value is one of their operands
  int shortcuts = 0;         // times that it is added as a shortcut
  bool is_output = false;    // whether it is a part of an output
  bool is_read() const { return !readers.empty() || shortcuts || is_output; }
  // The op that alone reads it, once and as an operand; kNone where there is no such op.
  int only_reader() const { return readers.size() == 1 && !shortcuts && !is_output ? readers[0] : kNone; }
};

// A borrowed array whose size has been checked.
template <class T>
struct Tensor {
  const T* data = nullptr;
  int64_t count = 0;
  explicit operator bool() const { return data != nullptr; }
  const T& operator[](int64_t i) const { return data[i]; }
};

// A channel of an operand, or of a value.
struct Source {
  int from;
  int32_t channel;
};

// The attributes that the kind does not have are neutral: a kernel of 1 x 1, one group, ...
struct Op : bbg_attributes {
  std::string name;
  const KindRule* rule = nullptr;
  std::vector<int> operands;                                        // values, at least one; one may come more than once
  std::vector<Source> sources;                                      // plan/moves.cpp: of each channel; else none
  int shortcut = kNone, real = kNone, bits = kNone, bytes = kNone;  // values
  int function_index = kNone;  // into Kernels::functions; of a convolution: plan/functions.cpp
  float low = 0, high = 0;
  Tensor<float> float_weight;
  Tensor<int8_t> byte_weight;
  Tensor<uint64_t> bit_weight, and_mask;
  Tensor<int32_t> acc_threshold, index;
  Tensor<float> tap_bias;
  std::array<Tensor<float>, BBG_PARAMETERS> epilogue;

  Kind kind() const { return rule->kind; }
  bool has(AttributeBit attribute) const { return rule->attributes & attribute; }
  bool is_conv() const { return rule->required & kWeight; }
  int64_t taps() const { return kernel[0] * kernel[1]; }
  int result() const { return real != kNone ? real : bits != kNone ? bits : bytes; }
  int input() const { return operands[0]; }
  bool has_operand(int value) const { return std::find(operands.begin(), operands.end(), value) != operands.end(); }
  bool is_clipped() const;
};

// A value and the order in which its axes are written: order[i] is 0, 1, 2 for the channels, rows, columns.
struct Part {
  int value;
  std::array<int, 3> order;
};

struct Output {
  std::vector<Part> parts;  // written one after another for each image
  int64_t numbers;          // per image
};

struct Graph {
  std::vector<Value> values;  // the first is the input
  std::vector<Op> ops;
  std::vector<Output> outputs;
  std::vector<std::shared_ptr<const std::vector<float>>> owned;  // tensors that are not borrowed (plan/moves.cpp)

  Graph(const char* input, Type type, const Shape& shape);
  void add(const bbg_op& description);
  void add_output(const bbg_part* parts, int64_t count);
  void set_operands(size_t op, std::vector<int> operands);  // of an op that is there

  int find(const char* value) const;  // kNone where there is none
  const Value& input_of(const Op& op) const { return values[size_t(op.input())]; }
  const Value& result_of(const Op& op) const { return values[size_t(op.result())]; }
  // A convolution of numbers whose filters have one channel each, their own.
  bool is_depthwise(const Op& op) const {
    const bool numbers = op.kind() == Kind::conv || op.kind() == Kind::byte_conv;
    return numbers && op.groups > 1 && op.groups == input_of(op).channels && op.groups == result_of(op).channels;
  }
  std::vector<int> output_values() const;  // of all parts of all outputs, each as often as it is written

 private:
  std::unordered_map<std::string, int> named_;  // values
};

}  // namespace bbg

struct bbg_graph {
  bbg::Graph graph;
};
