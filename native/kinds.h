// Everything that is true of an op kind stands in its row of kKinds. src/bbg/graph/kinds.py is the same table in
// Python, with shapes, formulas and costs added; a test compares the two through bbg._native.kinds().
//
// The shape of a result follows from the attributes, too: a kind with `kernel` slides a window over the map, with
// `size` it gives that map, with `channels` that number of channels. Otherwise the result has the operand's shape.
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
};

// The form of an attribute is the type of its field in bbg_op. Exactly one of the members is not null.
struct Attribute {
  AttributeBit bit;
  const char* name;
  int64_t (bbg_op::*pair)[2] = nullptr;
  int64_t bbg_op::*integer = nullptr;
  float bbg_op::*number = nullptr;
  int bbg_op::*boolean = nullptr;
  const char* bbg_op::*word = nullptr;

  constexpr Attribute(AttributeBit b, const char* n, int64_t (bbg_op::*field)[2]) : bit(b), name(n), pair(field) {}
  constexpr Attribute(AttributeBit b, const char* n, int64_t bbg_op::*field) : bit(b), name(n), integer(field) {}
  constexpr Attribute(AttributeBit b, const char* n, float bbg_op::*field) : bit(b), name(n), number(field) {}
  constexpr Attribute(AttributeBit b, const char* n, int bbg_op::*field) : bit(b), name(n), boolean(field) {}
  constexpr Attribute(AttributeBit b, const char* n, const char* bbg_op::*field) : bit(b), name(n), word(field) {}

  constexpr const char* form() const {
    return pair ? "pair of integers" : integer ? "integer" : number ? "number" : boolean ? "boolean" : "word";
  }
};

constexpr Attribute kAttributes[] = {
    {kKernel, "kernel", &bbg_op::kernel},
    {kStride, "stride", &bbg_op::stride},
    {kPadding, "padding", &bbg_op::padding},
    {kDilation, "dilation", &bbg_op::dilation},
    {kGroups, "groups", &bbg_op::groups},
    {kChannels, "channels", &bbg_op::channels},
    {kSize, "size", &bbg_op::size},
    {kCountIncludePad, "count_include_pad", &bbg_op::count_include_pad},
    {kCeilMode, "ceil_mode", &bbg_op::ceil_mode},
    {kEps, "eps", &bbg_op::eps},
    {kFunction, "function", &bbg_op::function},
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

constexpr uint32_t kWindow = kKernel | kStride | kPadding;
constexpr uint32_t kConv = kWindow | kDilation | kGroups | kChannels;
constexpr uint32_t kMaxPool = kWindow | kDilation | kCeilMode;
constexpr uint32_t kAvgPool = kWindow | kCountIncludePad | kCeilMode;
constexpr Element kNoWeight = Element::none;

// clang-format off
constexpr KindRule kKinds[] = {
    // kind                   name                 main        operands attributes required optional        epilogue  shortcut real   weight
    {Kind::conv,              "conv",              Type::real,  1, kConv,     kWeight, 0,                        kEpilogue,  true,  true,  Element::float32},
    {Kind::byte_conv,         "byte_conv",         Type::bytes, 1, kConv,     kWeight, kTapBias,                 kEpilogue,  true,  true,  Element::int8},
    {Kind::binary_conv,       "binary_conv",       Type::bits,  1, kConv,     kWeight, kAccThreshold | kTapBias, kWithShift, true,  true,  Element::uint64},
    {Kind::max_pool,          "max_pool",          Type::real,  1, kMaxPool,  0,       0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::avg_pool,          "avg_pool",          Type::real,  1, kAvgPool,  0,       0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::adaptive_avg_pool, "adaptive_avg_pool", Type::real,  1, kSize,     0,       0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::match_channels,    "match_channels",    Type::real,  1, kChannels, 0,       0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::pointwise,         "pointwise",         Type::real,  1, 0,         0,       0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::concat,            "concat",            Type::real,  0, 0,         0,       0,                        kEpilogue,  false, true,  kNoWeight},
    {Kind::select,            "select",            Type::real,  1, kChannels, kIndex,  0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::multiply,          "multiply",          Type::real,  2, 0,         0,       0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::unary,             "unary",             Type::real,  1, kFunction, 0,       0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::layer_norm,        "layer_norm",        Type::real,  1, kEps,      0,       0,                        kEpilogue,  true,  true,  kNoWeight},
    {Kind::max_pool_bits,     "max_pool_bits",     Type::bits,  1, kMaxPool,  kAndMask, 0,                       0,          false, false, kNoWeight},
};
// clang-format on

}  // namespace bbg
