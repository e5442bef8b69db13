// What the checks of the self-check share: random numbers, ops with sound fields, a run through an engine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "bbg.h"
#include "kinds.h"

namespace selftest {

using bbg::Kind;
using bbg::KindRule;
using bbg::Type;

inline std::mt19937 random_bits(1);

inline int64_t draw(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random_bits);
}

inline std::vector<float> normal(int64_t count) {
  std::normal_distribution<float> gauss;
  std::vector<float> v(static_cast<size_t>(count));
  for (float& x : v) x = gauss(random_bits);
  return v;
}

template <class T>
bbg_array array(const std::vector<T>& v) {
  return {v.data(), v.size()};
}

inline void require(const char* error) {
  if (!error) return;
  std::printf("FAILED: %s\n", error);
  std::exit(1);
}

using Names = std::vector<const char*>;

constexpr float kNumber = 1e-3F;  // every attribute that is a number

// An op with what a zeroed bbg_op needs besides.
inline bbg_op op_of(const char* name, const char* kind, const Names& operands, const char* real, const char* bits) {
  static std::deque<Names> kept;  // an op only borrows them
  kept.push_back(operands);
  bbg_op op{};
  op.name = name, op.kind = kind, op.real = real, op.bits = bits;
  op.operands = kept.back().data(), op.operand_count = static_cast<int64_t>(operands.size());
  bbg_attributes& a = op.attributes;
  for (int axis = 0; axis < 2; ++axis) a.kernel[axis] = a.stride[axis] = a.dilation[axis] = a.size[axis] = 1;
  a.groups = 1;
  for (const bbg::Attribute& attribute : bbg::kAttributes) {
    if (attribute.number) a.*attribute.number = kNumber;
  }
  op.low = -std::numeric_limits<float>::infinity(), op.high = std::numeric_limits<float>::infinity();
  return op;
}

struct Shape {
  int64_t channels, height, width;
  int64_t numbers() const { return channels * height * width; }
  int64_t at(int64_t c, int64_t y, int64_t x) const { return (c * height + y) * width + x; }
};

// The one output of a graph.
inline std::vector<float> run(const bbg_graph* graph, const char* kernel_set, int threads, const std::vector<float>& x,
                              int64_t images, int64_t numbers) {
  bbg_engine* engine = nullptr;
  require(bbg_engine_new(graph, kernel_set, threads, nullptr, nullptr, nullptr, &engine));
  std::vector<float> y(static_cast<size_t>(numbers * images));
  float* const outputs[] = {y.data()};
  const size_t counts[] = {y.size()};
  const size_t bytes = x.size() * sizeof(float);
  require(bbg_engine_run(engine, BBG_FLOAT_NCHW, x.data(), bytes, images, nullptr, nullptr, outputs, counts, nullptr,
                         nullptr, nullptr));
  bbg_engine_free(engine);
  return y;
}

inline std::vector<std::string> supported_sets() {
  std::vector<std::string> sets;
  const char* name;
  int supported;
  for (int i = 0; bbg_kernel_set(i, &name, &supported); ++i) {
    if (supported) sets.push_back(name);
  }
  return sets;
}

inline std::vector<std::string> unary_functions() {
  std::vector<std::string> names;
  for (int i = 0; const char* name = bbg_function(i); ++i) names.push_back(name);
  return names;
}

// Exits with a sentence where an op of the kind differs from its definition, or a kernel set from the scalar one.
void check_op(const KindRule& rule, int number);

// The same for a random network in which every kind occurs.
void check_network(int number);

// Exits with a sentence where a wrong call is taken.
void check_misuse();

}  // namespace selftest
