// Everything that is true of an op kind stands in its row of kKinds. src/bbg/graph/kinds.py is the same table in
// Python, with shapes, formulas and costs added; a test compares the two through bbg._native.kinds().
//
// The shape of a result follows from the attributes, too: a kind with `kernel` slides a window over the map, with
// `stride` alone it moves channels into the map, with `size` it gives that map, with `channels` that number of
// channels. Otherwise the result has the operand's shape.
#pragma once

#include <cstdint>

#include "bbg.h"

namespace bbg {

enum class Type { real, bits, bytes };
constexpr const char* kTypes[] = {"real", "bits", "bytes"};

enum class Element { none, float32, int8, int32, uint64 };
constexpr const char* kElements[] = {"", "float32", "int8", "int32", "uint64"};

// ---- attributes -----------------------------------------------------------------------------------------------------

enum AttributeBit : uint32_t {
  kKernel = 1u << 0,
  kStride = 1u << 1,
  kPadding = 1u << 2,
  kDilation = 1u << 3,
  kGroups = 1u << 4,
  kChannels = 1u << 5,
  kSize = 1u << 6,
  kCountIncludePad = 1u << 7,
  kCeilMode = 1u << 8,
  kEps = 1u << 9,
  kFunction = 1u << 10,
  kAlignCorners = 1u << 11,
};

// The form of an attribute is the type of its field in bbg_attributes: exactly one of the pointers is not null.
// `least`: the smallest integer allowed, also of each in a pair, which is what an op has whose kind lacks the
// attribute. A number is finite, and positive where `least` is 1.
struct Attribute {
  template <class T>
  using Field = T bbg_attributes::*;

  AttributeBit bit;
  const char* name;
  int64_t least;
  Field<int64_t[2]> pair = nullptr;
  Field<int64_t> integer = nullptr;
  Field<float> number = nullptr;
  Field<int> boolean = nullptr;
  Field<const char*> word = nullptr;

  constexpr Attribute(AttributeBit b, const char* n, Field<int64_t[2]> f, int64_t l) : Attribute(b, n, l) { pair = f; }
  constexpr Attribute(AttributeBit b, const char* n, Field<int64_t> f, int64_t l) : Attribute(b, n, l) { integer = f; }
  constexpr Attribute(AttributeBit b, const char* n, Field<float> f, int64_t l) : Attribute(b, n, l) { number = f; }
  constexpr Attribute(AttributeBit b, const char* n, Field<int> f) : Attribute(b, n, int64_t{0}) { boolean = f; }
  constexpr Attribute(AttributeBit b, const char* n, Field<const char*> f) : Attribute(b, n, int64_t{0}) { word = f; }

  constexpr const char* form() const {
    return pair ? "pair of integers" : integer ? "integer" : number ? "number" : boolean ? "boolean" : "word";
  }

 private:
  constexpr Attribute(AttributeBit b, const char* n, int64_t l) : bit(b), name(n), least(l) {}
};

constexpr Attribute kAttributes[] = {
    {kKernel, "kernel", &bbg_attributes::kernel, 1},
    {kStride, "stride", &bbg_attributes::stride, 1},
    {kPadding, "padding", &bbg_attributes::padding, 0},
    {kDilation, "dilation", &bbg_attributes::dilation, 1},
    {kGroups, "groups", &bbg_attributes::groups, 1},
    {kChannels, "channels", &bbg_attributes::channels, 1},
    {kSize, "size", &bbg_attributes::size, 1},
    {kCountIncludePad, "count_include_pad", &bbg_attributes::count_include_pad},
    {kCeilMode, "ceil_mode", &bbg_attributes::ceil_mode},
    {kEps, "eps", &bbg_attributes::eps, 1},
    {kFunction, "function", &bbg_attributes::function},
    {kAlignCorners, "align_corners", &bbg_attributes::align_corners},
};

// ---- tensors --------------------------------------------------------------------------------------------------------

enum TensorBit : uint32_t {
  kWeight = 1u << 0,
  kAccThreshold = 1u << 1,
  kTapBias = 1u << 2,
  kAndMask = 1u << 3,
  kIndex = 1u << 4,
};

struct TensorRule {
  TensorBit bit;
  const char* name;
  bbg_array bbg_op::*field;
  Element element;  // none: KindRule::weight says it
};

constexpr TensorRule kTensors[] = {
    {kWeight, "weight", &bbg_op::weight, Element::none},
    {kAccThreshold, "acc_threshold", &bbg_op::acc_threshold, Element::int32},
    {kTapBias, "tap_bias", &bbg_op::tap_bias, Element::float32},
    {kAndMask, "and_mask", &bbg_op::and_mask, Element::uint64},
    {kIndex, "index", &bbg_op::index, Element::int32},
};

// ---- epilogue parameters --------------------------------------------------------------------------------------------

// In the order of bbg_parameter.
constexpr const char* kParameters[BBG_PARAMETERS] = {"scale", "bias",   "shift",         "gate",       "above",
                                                     "below", "offset", "bit_threshold", "byte_scale", "byte_bias"};

constexpr uint32_t kWithShift = (1u << BBG_PARAMETERS) - 1;
constexpr uint32_t kEpilogue = kWithShift & ~(1u << BBG_SHIFT);

// ---- kinds ----------------------------------------------------------------------------------------------------------

enum class Kind {
  conv,
  byte_conv,
  binary_conv,
  max_pool,
  avg_pool,
  adaptive_avg_pool,
  match_channels,
  pointwise,
  concat,
  select,
  multiply,
  unary,
  layer_norm,
  softmax,
  log_softmax,
  max_channels,
  bilinear,
  take,
  depth_to_space,
  max_pool_bits,
};

struct KindRule {
  Kind kind;
  const char* name;
  Type main;                    // of all operands
  int operands;                 // 0: two or more
  uint32_t attributes;          // AttributeBits
  uint32_t required, optional;  // TensorBits
  uint32_t epilogue;            // bit r: bbg_parameter r is allowed
  bool shortcut;                // whether one is allowed
  bool real_output;             // else it writes bits only, without an epilogue
  Element weight;
};

// clang-format off
constexpr uint32_t kWindow = kKernel | kStride | kPadding;
constexpr uint32_t kConv = kWindow | kDilation | kGroups | kChannels;
constexpr uint32_t kMaxPool = kWindow | kDilation | kCeilMode;
constexpr uint32_t kAvgPool = kWindow | kCountIncludePad | kCeilMode;
constexpr uint32_t kResize = kSize | kAlignCorners;
constexpr uint32_t kSums = kAccThreshold | kTapBias;
constexpr Type kReal = Type::real, kBits = Type::bits, kBytes = Type::bytes;
constexpr Element kFloat = Element::float32, kInt8 = Element::int8, kWords = Element::uint64, kNoWeight = Element::none;

#define BBG_KIND(name) Kind::name, #name

constexpr KindRule kKinds[] = {
    // Columns: kind, main, operands, attributes, required and optional tensors, epilogue, shortcut, real_output, weight
    {BBG_KIND(conv),              kReal,  1, kConv,     kWeight, 0,        kEpilogue,  true,  true,  kFloat},
    {BBG_KIND(byte_conv),         kBytes, 1, kConv,     kWeight, kTapBias, kEpilogue,  true,  true,  kInt8},
    {BBG_KIND(binary_conv),       kBits,  1, kConv,     kWeight, kSums,    kWithShift, true,  true,  kWords},
    {BBG_KIND(max_pool),          kReal,  1, kMaxPool,  0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(avg_pool),          kReal,  1, kAvgPool,  0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(adaptive_avg_pool), kReal,  1, kSize,     0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(match_channels),    kReal,  1, kChannels, 0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(pointwise),         kReal,  1, 0,         0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(concat),            kReal,  0, 0,         0,       0,        kEpilogue,  false, true,  kNoWeight},
    {BBG_KIND(select),            kReal,  1, kChannels, kIndex,  0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(multiply),          kReal,  2, 0,         0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(unary),             kReal,  1, kFunction, 0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(layer_norm),        kReal,  1, kEps,      0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(softmax),           kReal,  1, 0,         0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(log_softmax),       kReal,  1, 0,         0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(max_channels),      kReal,  1, kChannels, 0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(bilinear),          kReal,  1, kResize,   0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(take),              kReal,  1, kSize,     kIndex,  0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(depth_to_space),    kReal,  1, kStride,   0,       0,        kEpilogue,  true,  true,  kNoWeight},
    {BBG_KIND(max_pool_bits),     kBits,  1, kMaxPool,  kAndMask, 0,       0,          false, false, kNoWeight},
};

#undef BBG_KIND
// clang-format on

}  // namespace bbg
