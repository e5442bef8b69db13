// What the engine and the kernel sets say to each other: plain structs, one function table per instruction set.
//
// Every kernel runs a range of items of one op; an item is one output row of one image, for one block of output
// channels. Items write disjoint memory, so any split over threads gives the same result. Lanes are output channels.
#pragma once

#include <cstdint>

namespace bbg {

// Where a value lives: NHWC with byte strides. Rows have zeroed margins, so that horizontally padded taps may be read.
// Pixels of real values and of bytes hold a multiple of the lane count (what lies behind the last channel is
// unspecified), but those of an input that only convolutions read have none behind the last; a pixel of bits holds
// 2 bytes up to 16 channels, else 4 bytes per 32 (bits behind the last channel are 0). A number of a value of bytes
// takes Kernels::byte_size bytes.
struct Map {
  uint8_t* data = nullptr;  // pixel (0, 0) of image 0; null: the value is absent
  int64_t image = 0, row = 0, pixel = 0;
  int64_t left = 0, right = 0;  // bytes of margin
  int64_t channels = 0;  // stored; a shortcut with fewer than the result repeats them
};

// Per-channel vectors are padded to the lane count with numbers that make unused lanes harmless.
struct Epilogue {
  const float *scale, *bias, *shift, *gate, *above, *below, *offset, *sign;  // shift, above: null where absent
  const float *byte_scale, *byte_bias;
  float low, high;
  bool clip;
  const int32_t* threshold;  // with it, the integer accumulator decides and nothing else here is read but `bits`
  const float* window_sum;   // S, one number per [image, y, x, group]; null without `shift`
  const int32_t* group;      // of each channel, for S
  int32_t groups;
  Map shortcut, real, bits, bytes;
  int32_t channels;
  int32_t height, width;  // of the result
};

// Vertical extent of the taps of one output row that lie inside the map.
struct ConvRow {
  int64_t offset;  // bytes from the image's first row to the first valid tap's row
  int32_t first, taps;
  int32_t cls;  // which border class the row is in
};

// Count::nibbles: filters of a block, and bits of a window that 16-bit counts allow.
constexpr int kNibbleFilters = 64;
constexpr int kNibbleBits = 65535;

// A block of one or two vectors of output channels. Its window is a list of items (numbers, 32-bit words, or triples of
// words), tap row by tap row; weights are [item][lane]. For Count::nibbles a block is up to kNibbleFilters channels, and
// weights are [word][nibble][filter], a byte each, the filters of each 32 in the order 0, 16, 1, 17, ..., 15, 31.
struct ConvBlock {
  const void* weights;       // of the tap rows, then of the rests
  const uint32_t* mask;      // Count::masked: which bits of the words belong to the lane's group
  const int32_t* offsets;    // bytes from the first valid tap row's first tap to each item
  int32_t channel, vectors;
  int32_t items;        // per tap row
  int32_t width;        // elements of weights per item; less than the lanes only for one output pixel
  int64_t row_weights;  // and per tap row
};

// How the bits of a window are counted.
enum class Count : int32_t {
  words,    // every bit of the window's 32-bit words
  masked,   // the bits chosen by a mask
  pairs,    // up to 16 channels, stride 1: one 32-bit word is the same tap of two neighbouring outputs
  triples,  // like words; `parity` holds the XOR of each three neighbouring words; gives half the accumulator, so that
            // `base` and the threshold are halves as well, and the scale is twice that of the op
  nibbles,  // like words, four bits at a time from a table, for 32 filters at once
  bytes     // no bits: a word holds as many bytes as its width has, and the sum of the products with the weights counts
};

// Of Count::bytes: a tap row of 21 bytes fills five words, and its last byte would take a sixth. Those of all tap rows
// fill words of their own instead, which are collected for one output row at a time, in a buffer of each member of the
// team: [word][output column], with 0 for rows beside the map.
struct Rests {
  uint8_t* buffer;         // of member 0
  int64_t bytes;           // from a member's buffer to the next
  const int32_t* offsets;  // bytes from a word of an output column to its next words
  int32_t words;           // 0: nothing is collected
  int32_t from;            // bytes from the beginning of a tap row to its last
  int64_t rows;            // of taps
};
constexpr int64_t kRestColumn = 8;  // bytes from one output column to the next, at most

struct Conv {
  Map input;
  const ConvRow* rows;
  const int32_t* col_border;  // per output column: class * padded channels
  const int32_t* col_alike;   // and how many columns from it on have its class
  const ConvBlock* blocks;
  int32_t block_count;
  int64_t origin;  // bytes from pixel (0, 0) to the first tap of output column 0
  int64_t column;  // bytes from one output column to the next
  bool together;   // one output pixel per image: the images of a round are its columns, and share the weights
  Count count;
  Rests rests;
  int64_t next, below;  // bytes from a tap to the one beside it and to the one below
  int64_t parity;       // Count::triples: bytes from a word to the XOR of the three
  // Of bits: base[row class][column class][channel] = valid taps + 2 * (set weight bits under padded taps), so that the
  // accumulator is base - 2 * popcount over the zero-padded window.
  const int32_t* base;
  const float* class_bias;  // bias + tap_bias of the valid taps, indexed the same way; null: Epilogue::bias
  int64_t class_row;  // elements per row class
  Epilogue out;
};

// XOR of each word of a row with the next and the one after, margins included.
struct Parity {
  const uint8_t* from;  // the first word of image 0
  uint8_t* to;          // laid out alike
  int64_t image, row;   // bytes
  int64_t next;         // bytes
  int64_t rows;         // per image
};

// Taps of a pooling window in one direction: begin, begin + dilation, ...; `extent` is this direction's divisor.
struct Window {
  int32_t begin, count, extent;
};

struct Pool {
  Map input;
  const Window *rows, *cols;
  int32_t dilation_y, dilation_x;
  bool average;
  const uint16_t* and_mask;  // bits only
  Epilogue out;
};

struct Match {  // pointwise, and match_channels to fewer channels
  Map input;
  int32_t channels;   // of the input
  const float* part;  // of each channel of the result: one over the number of channels whose mean it is
  Epilogue out;
};

struct Gather {  // concat, select, and match_channels to more channels
  const Map* inputs;
  const int32_t *input, *channel;  // of each channel of the result: which input, and which channel of that
  const int32_t* whole;            // of each vector of channels: not 0 where they lie side by side in one input
  Epilogue out;
};

struct Multiply {
  Map input, factor;  // the factor's row and pixel are 0 where it has one number per channel
  Epilogue out;
};

enum class Curve : int32_t { tanh, sigmoid, silu, hardswish, gelu };

struct Curved {
  Map input;
  Curve curve;
  Epilogue out;
};

struct LayerNorm {
  Map input;
  float eps, part;     // part: 1 / channels
  const float* valid;  // for the lanes of the last vector of channels: 1 where there is a channel, else -1
  Epilogue out;
};

// A convolution of bytes whose result only a max-pool reads. Rows of the convolution go to a member's own buffer, from
// which the pool takes them while they are in the cache; items are rows of the pool. Where `columns`, the convolution
// already takes the maxima over each window's columns, and the pool's windows have one column each.
struct ConvPool {
  Conv conv;
  Pool pool;
  uint8_t* buffer;  // of member 0
  int64_t bytes;    // from a member's buffer to the next
  int64_t rows;     // that a buffer has room for: at least those of one window
  bool columns;
};

// Items are numbered (block, image, row), or where images go together by block alone, blocks outermost, so that a block's
// weights stay in the cache. `member`: of the team, the one that runs these items.
using Run = void (*)(const void* args, int64_t images, int64_t begin, int64_t end, int64_t member);

struct Kernels {
  const char* name;
  int32_t lanes;
  int32_t byte_size;             // of a number of a value of bytes: 1 or 2
  bool pairs, triples, nibbles;  // which ways of counting the set has
  bool rests;                    // whether it collects Rests
  // binary_conv: of bytes too. conv: of real numbers; depthwise: where each filter has one channel, its own.
  Run binary_conv, parity, conv, depthwise, conv_pool, pool, pool_bits, match, gather, multiply, curve, layer_norm;
};

// Null where this build has no such set.
const Kernels* kernels_avx512();
const Kernels* kernels_avx2();
const Kernels* kernels_neon();
const Kernels* kernels_scalar();

struct KernelSet {
  const char* name;
  const Kernels* kernels;  // null: not on this machine
};
constexpr int kKernelSets = 4;
const KernelSet* kernel_sets();  // best first

}  // namespace bbg
