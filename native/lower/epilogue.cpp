// The epilogue's parameters as the kernels read them: one vector per parameter, padded to whole vectors of lanes. Lanes
// behind the last channel get numbers that give 0 and a bit of 0.
#include <algorithm>
#include <cmath>
#include <limits>

#include "lower/lower.h"

namespace bbg {
namespace {

template <class T, class From>
const T* padded(const LowerInput& in, const Tensor<From>& given, T absent, T pad) {
  T* to = in.memory.make<T>(in.padded);
  for (int64_t c = 0; c < in.padded; ++c) to[c] = c >= in.out.channels ? pad : given ? given[c] : absent;
  return to;
}

// Lane i of the vector from channel c on holds channel (c + i) % given of a shortcut. It is lane i of the vector from
// c % given on (-1), or lane (c + i) % given of the one from 0 on, once it begins again.
const int32_t* repeats(const LowerInput& in, int64_t given) {
  int32_t* to = in.memory.make<int32_t>(in.padded);
  for (int64_t c = 0; c < in.padded; ++c) {
    const int64_t first = c / in.lanes * in.lanes % given, lane = c % in.lanes;
    to[c] = first + lane < given ? kNone : int32_t((first + lane) % given);
  }
  return to;
}

// Bytes lie between 0 and 255. Where nothing but bytes is written, the clip before them is folded into these bounds:
// what multiplies and adds keeps an order, or turns it round, so that
//
//   clip(clip(v, low, high) s + b, 0, 255)  =  clip(v s + b, low s + b, high s + b) within 0 and 255      for s > 0
void bound_bytes(const LowerInput& in, Epilogue& e) {
  constexpr float kMost = 255;
  float* low = in.memory.make<float>(in.padded);
  float* high = in.memory.make<float>(in.padded);
  const bool fold = e.clip && !e.function && e.bytes.at != kNowhere && e.real.at == kNowhere && e.bits.at == kNowhere;
  for (int64_t c = 0; c < in.padded; ++c) {
    const float s = e.byte_scale[c], b = e.byte_bias[c];
    const bool bounded = fold && s != 0;
    const float a = bounded ? std::fma(e.low, s, b) : 0, z = bounded ? std::fma(e.high, s, b) : kMost;
    low[c] = std::clamp(std::min(a, z), 0.0f, kMost), high[c] = std::clamp(std::max(a, z), 0.0f, kMost);
  }
  const bool none_is_lifted = std::all_of(low, low + in.padded, [](float l) { return l == 0; });
  e.byte_low = none_is_lifted ? nullptr : low, e.byte_high = high;
  e.clip = e.clip && !fold;
}

}  // namespace

const float* mean_parts(const LowerInput& in, int64_t given) {
  float* part = in.memory.make<float>(in.padded);
  const int64_t least = given / in.channels, rest = given % in.channels;
  for (int64_t c = 0; c < in.padded; ++c) part[c] = 1.0f / float(least + (c < rest));
  return part;
}

Epilogue make_epilogue(const LowerInput& in) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Op& op = in.op;
  const auto& given = op.epilogue;
  Epilogue e{};
  e.scale = padded(in, given[BBG_SCALE], 1.0f, 0.0f);
  e.bias = padded(in, given[BBG_BIAS], 0.0f, 0.0f);
  e.gate = padded(in, given[BBG_GATE], 1.0f, 0.0f);
  e.bit_threshold = padded(in, given[BBG_BIT_THRESHOLD], 0.0f, kInfinity);
  e.byte_scale = padded(in, given[BBG_BYTE_SCALE], 1.0f, 0.0f);
  e.byte_bias = padded(in, given[BBG_BYTE_BIAS], 0.0f, 0.0f);
  if (given[BBG_SHIFT]) {
    e.shift = padded(in, given[BBG_SHIFT], 0.0f, 0.0f);
    e.window_sum = in.scratch.images;
    int32_t* group = in.memory.make<int32_t>(in.padded);
    for (int64_t c = 0; c < in.out.channels; ++c) group[c] = int32_t(in.group_of(c));
    e.group = group;
  }
  if (given[BBG_ABOVE] || given[BBG_BELOW] || given[BBG_OFFSET]) {
    e.above = padded(in, given[BBG_ABOVE], 1.0f, 1.0f);
    e.below = padded(in, given[BBG_BELOW], 1.0f, 1.0f);
    e.offset = padded(in, given[BBG_OFFSET], 0.0f, 0.0f);
  }
  if (op.acc_threshold) {
    constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
    e.acc_threshold = padded(in, op.acc_threshold, kNever, kNever);
  }
  e.low = op.low, e.high = op.high, e.clip = op.is_clipped();
  e.groups = int32_t(op.groups);
  e.shortcut = in.layout(op.shortcut), e.real = in.layout(op.real);
  e.byte_shortcut = op.shortcut != kNone && in.graph.values[size_t(op.shortcut)].type == Type::bytes;
  e.bits = in.layout(op.bits), e.bytes = in.layout(op.bytes);
  if (e.shortcut.channels > in.channels) e.part = mean_parts(in, e.shortcut.channels);
  if (e.shortcut.channels < in.channels && e.shortcut.channels % in.lanes) e.repeat = repeats(in, e.shortcut.channels);
  if (op.is_conv() && op.function_index != kNone) e.function = in.kernels.functions[op.function_index].apply;
  bound_bytes(in, e);
  e.channels = int32_t(in.channels), e.height = int32_t(in.out.height), e.width = int32_t(in.out.width);
  return e;
}

// With h = acc / 2, a whole number: scale * acc = (2 scale) * h, and acc >= t is h >= t / 2, which for a whole h is
// h >= ceil(t / 2). C++ rounds t / 2 towards zero: up for a negative t, down for a positive one.
void halve_accumulator(const LowerInput& in, Epilogue& e) {
  float* scale = in.memory.make<float>(in.padded);
  std::transform(e.scale, e.scale + in.padded, scale, [](float s) { return 2 * s; });
  e.scale = scale;
  if (!e.acc_threshold) return;
  int32_t* threshold = in.memory.make<int32_t>(in.padded);
  std::transform(e.acc_threshold, e.acc_threshold + in.padded, threshold,
                 [](int32_t t) { return t / 2 + (t > 0 && t % 2); });
  e.acc_threshold = threshold;
}

}  // namespace bbg
