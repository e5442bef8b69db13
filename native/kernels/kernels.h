// The interface between the engine and the kernel sets: plain structs, and one function table per instruction set.
//
// Every kernel runs a range of items of one op. An item is one output row of one image, for one block of output
// channels. Items write disjoint memory, so any split over threads gives the same result. Lanes are output channels.
#pragma once

#include <cstdint>

#include "bbg.h"

namespace bbg {

// Bytes from the beginning of the workspace. Each call of an engine has a workspace of its own, so that what kernels
// work on says where in it a value lies; a Worker says in whose.
using Offset = int64_t;
constexpr Offset kNowhere = INT64_MIN;

// How a value lies in memory: NHWC with strides in bytes. Rows have zeroed margins, so that horizontally padded taps
// may be read.
//
//            left      pixel 0   pixel 1       pixel W-1    right
//   row y   |0 0 0 0 |c0 c1 .. |c0 c1 .. | ... |c0 c1 .. |0 0 0 0 |
//                     ^ at + n * image + y * row
//
// A pixel of a real value or of bytes holds a multiple of the lane count; what lies behind the last channel is
// unspecified. Exception: an input that only convolutions read has its channels densely packed. A pixel of bits takes 2
// bytes up to 16 channels, else 4 bytes per 32; bits behind the last channel are 0. A number of a value of bytes takes
// Kernels::byte_size bytes.
struct Layout {
  Offset at = kNowhere;  // pixel (0, 0) of image 0; kNowhere: the value is absent
  int64_t image = 0, row = 0, pixel = 0;
  int64_t left = 0, right = 0;  // bytes of margin
  int64_t slice = 0;            // bytes into the pixel of a join (plan/joins.cpp) at which this value begins
  int64_t channels = 0;         // a shortcut with others than the result: matched_shortcut
};

// The epilogue of docs/format.md. Per-channel vectors are padded to the lane count with numbers that make unused lanes
// harmless.
struct Epilogue {
  const float *scale, *bias, *shift, *gate, *above, *below, *offset, *bit_threshold;  // shift, above: null where absent
  const float *byte_scale, *byte_bias;
  const float *byte_low, *byte_high;  // null and 255, or narrower for a clip that is left out; null: 0
  float low, high;
  bool clip;
  void (*function)(float* numbers, int vectors);  // comes behind the clip; null: none. Convolutions of numbers only
  const int32_t* acc_threshold;  // if given, the integer accumulator decides, and only `bits` is read besides
  Offset window_sum;             // S, one number per [image, y, x, group]; read with `shift`
  const int32_t* group;          // of each channel, for S
  const int32_t* repeat;         // of each channel, see matched_shortcut; null where no shortcut needs it
  const float* part;             // of each channel: one over the shortcut's whose mean it adds; null where none
  int32_t groups;
  Layout shortcut, real, bits, bytes;
  bool byte_shortcut;  // the shortcut is bytes: CountMethod::int8 only
  int32_t channels;
  int32_t height, width;  // of the result
};

// Vertical extent of the taps of one output row that lie inside the map.
struct ConvRow {
  int64_t offset;  // bytes from the image's first row to the first valid tap's row
  int32_t first, taps;
  int32_t border_class;
};

// CountMethod::lookup4: filters of a block, and bits of a window that 16-bit counts allow.
constexpr int kLookupFilters = 64;
constexpr int kLookupBits = 65535;

// A block of one or two vectors of output channels (lookup4: up to kLookupFilters channels). Its window is a list of
// items, tap row by tap row; lower/conv_*.cpp draw how the weights of an item lie.
struct ConvBlock {
  const void* weights;     // of the tap rows, then of the tail bytes
  const uint32_t* mask;    // CountMethod::masked: which bits of the words belong to the lane's group
  const int32_t* offsets;  // bytes from the first valid tap row's first tap to each item
  int32_t channel, vectors;
  int32_t items;        // per tap row
  int32_t width;        // elements of weights per item; less than the lanes only for one output pixel
  int64_t row_weights;  // and per tap row
};

// How the products of a window are summed up.
enum class CountMethod : int32_t {
  words,       // every bit of the window's 32-bit words
  masked,      // the bits chosen by a mask: groups that share words
  two_pixels,  // up to 16 channels, stride 1: one 32-bit word is the same tap of two neighbouring outputs
  carry_save,  // three words at a time, from their XOR (precomputed in `parity`) and majority. Yields acc/2, hence
               // base/2, acc_threshold/2 and 2*scale
  lookup4,     // four bits at a time from a table, for 32 filters at once
  int8         // no bits: a word holds as many bytes as its width has, and the products with the weights are summed
};

// CountMethod::int8 over a dense input: a tap row of 21 bytes fills five words, and its last byte would take a sixth.
// These last bytes of all tap rows fill words of their own instead. They are gathered for one output row at a time,
// into a buffer of each team member: [word][output column], with 0 for rows beside the map.
struct TailBytes {
  Offset buffer;           // of member 0
  int64_t bytes;           // from a member's buffer to the next
  const int32_t* offsets;  // bytes from a word of an output column to its next words
  int32_t words;           // 0: nothing is gathered
  int32_t from;            // bytes from the beginning of a tap row to its last
  int64_t rows;            // of taps
};
constexpr int64_t kTailColumn = 8;  // bytes from one output column to the next, at most

// CountMethod::int8 by tiles (kernels/tiles.inl): `columns` output columns and `bytes` of their windows make a tile.
struct Tiles {
  int32_t bytes;    // 0: no tiles; a multiple of 4, and each tap row of a block is a multiple of it
  int32_t columns;  // at most 16, and an even number where the row has one
  int32_t rows;     // output rows of an item: 2 where each is one tile, so that they share the weights' tiles
  int32_t blocks;   // of an item: one, or all of them where their weights stay in the cache
  int32_t kernel_rows;
};

// CountMethod::int8 where each filter has one channel, its own (kernels/depthwise.inl): the taps above each other share
// words. Those of one output row and block are collected in a buffer of each team member: [word][input column][lane].
struct StackedTaps {
  Offset buffer;       // of member 0
  int64_t bytes;       // from a member's buffer to the next
  int64_t columns;     // of the input, from the first tap of the first output to the last of the last one; 0: none
  int64_t step, next;  // columns from an output to the next, and from a tap to the one beside it
};

struct Conv {
  Layout input;
  const ConvRow* rows;
  const int32_t* column_border;  // per output column: border class * padded channels
  const int32_t* column_run;     // per output column: how many columns from it on have its border class
  const ConvBlock* blocks;
  int32_t block_count;
  int64_t origin;          // bytes from pixel (0, 0) to the first tap of output column 0
  int64_t column;          // bytes from one output column to the next
  bool images_as_columns;  // one output pixel per image: the images of a chunk are its columns, and share the weights
  CountMethod method;
  TailBytes tail_bytes;
  Tiles tiles;
  StackedTaps stacked;
  int64_t next, below;  // bytes from a tap to the one beside it and to the one below
  int64_t parity;       // CountMethod::carry_save: bytes from a word to the XOR of the three
  // Of bits: base[row class][column class][channel] = valid taps + 2 * (set weight bits under padded taps), so that the
  // accumulator is base - 2 * popcount over the zero-padded window.
  const int32_t* base;
  const float* class_bias;  // bias + tap_bias of the valid taps, indexed the same way; null: Epilogue::bias
  int64_t class_row;        // elements per row class
  Epilogue out;
};

// XOR of each word of a row with the next and the one after, margins included.
struct Parity {
  Offset from;         // the first word of image 0
  Offset to;           // laid out alike
  int64_t image, row;  // bytes
  int64_t next;        // bytes
  int64_t rows;        // per image
};

// Taps of a window in one direction: begin, begin + dilation, ...; `extent` is this direction's divisor of an average.
struct Window {
  int32_t begin, count, extent;
};

// S: the sum of the +-1 inputs of each window, for each group; read where weights have a shift.
struct WindowSum {
  Layout input;
  const Window *rows, *cols;
  int64_t dilation_y, dilation_x;
  int64_t inputs;                 // channels of a group
  int64_t height, width, groups;  // of the result
  Offset sums;                    // [image, y, x, group]
};

struct Pool {
  Layout input;
  const Window *rows, *cols;
  int32_t dilation_y, dilation_x;
  bool average;
  const uint16_t* and_mask;  // bits only
  Epilogue out;
};

struct Match {  // pointwise, and match_channels to fewer channels
  Layout input;
  int32_t channels;   // of the input
  const float* part;  // of each channel of the result: one over the number of channels whose mean it is
  Epilogue out;
};

// A vector of channels of one input, from `channel` on, of which a vector of the result takes lanes.
struct Piece {
  int32_t input, channel;
};

struct Gather {  // concat, select, and match_channels to more channels
  const Layout* inputs;
  const Piece* pieces;   // of all vectors of the result, one after the other
  const int32_t* lanes;  // of each piece, for each lane of the result: which lane of the piece it takes; -1: none
  const int32_t* first;  // of each vector of channels: its first piece; behind the last vector: the number of pieces
  Epilogue out;
};

// depth_to_space: for each phase, row by row, the channels of the operand that its pixels take, as `first` of a gather.
struct DepthToSpace {
  Gather gather;
  int32_t stride_y, stride_x;
  int32_t vectors;  // of channels of the result
};

// Between which rows, or columns, of the operand one of the result lies: `first` and the `step`-th behind it, whose
// share is `share`.
struct Between {
  int32_t first, step;
  float share;
};

struct Bilinear {
  Layout input;
  const Between *rows, *cols;
  Epilogue out;
};

struct Take {
  Layout input;
  const int32_t *rows, *cols;
  Epilogue out;
};

// Concat and select of bytes (plan/moves.cpp), as bytes: Piece::channel counts them, and `lanes` has one for each of
// them, kNoByte where it stays.
struct GatherBytes {
  const Layout* inputs;
  const Piece* pieces;
  const uint8_t* lanes;
  const int32_t* first;
  Layout out;
  int32_t bytes;  // of a pixel
  int32_t height, width;
};
constexpr uint8_t kNoByte = 0x80;

constexpr int32_t kBitsOfRootHalf = 0x3f3504f3;  // of sqrt(1/2) as a float: see split_power

struct Multiply {
  Layout input, factor;  // the factor's row and pixel are 0 where it has one number per channel
  Epilogue out;
};

struct Unary {
  Layout input;
  Epilogue out;
};

// An op of one operand that computes each pixel from the same pixel: a kind of the table at the end of values.inl.
struct PixelOp {
  Layout input;
  bbg_attributes attributes;
  float part;          // 1 / channels
  const float* valid;  // for the lanes of the last vector of channels: 1 where there is a channel, else -1
  Epilogue out;
};

// What a row of a convolution of bytes stores: all its columns, or their maxima over a max-pool's windows, with padding
// or without (pool_sums in bytes.inl).
enum class Columns { all, padded, inside };

// A convolution of bytes whose result only a max-pool reads. Rows of the convolution go to a member's own buffer, from
// which the pool takes them while they are in the cache; items are rows of the pool. Where the convolution takes the
// maxima over each window's columns, the pool's windows have one column each.
struct ConvPool {
  Conv conv;
  Pool pool;
  Offset buffer;  // of member 0
  int64_t bytes;  // from a member's buffer to the next
  int64_t rows;   // that a buffer has room for: at least those of one window
  Columns columns;
};

// Who runs items: a member of the team, for a call.
struct Worker {
  uint8_t* workspace;  // the call's
  int64_t member;
};

// Runs the items [begin, end) on one of the structs above. Items are numbered (block, image, row), or by block alone
// for images_as_columns; blocks are outermost, so that a block's weights stay in the cache. Of a depthwise convolution
// they are innermost.
using KernelFunction = void (*)(const void* args, const Worker& worker, int64_t images, int64_t begin, int64_t end);

struct NamedKernel {
  const char* name;
  KernelFunction run;
};

// A scalar function: `run` on a Unary, `apply` in place on whole vectors of numbers.
struct NamedFunction {
  const char* name;
  KernelFunction run;
  void (*apply)(float* numbers, int vectors);
};

struct Kernels {
  const char* name;
  int32_t lanes;
  int32_t byte_size;                     // of a number of a value of bytes: 1 or 2
  int32_t moved_bytes;                   // that pool_bytes and gather_bytes take at a time, at most 64
  bool two_pixels, carry_save, lookup4;  // which counting methods the set has
  bool tail_bytes;                       // whether it gathers TailBytes
  bool tiles;                            // and multiplies bytes by tiles
  // binary_conv: of bytes too. conv: of real numbers. depthwise...: where each filter has one channel, its own.
  // pool_bytes: maxima only.
  KernelFunction binary_conv, parity, window_sum, conv, depthwise, depthwise_bytes;
  KernelFunction conv_pool, pool, pool_bits, pool_bytes, match, max_channels, gather, gather_bytes, depth_to_space,
      bilinear, take, multiply;
  // The same names in the same order in every set.
  const NamedFunction* functions;  // of the kind unary (unary.inl)
  int32_t function_count;
  const NamedKernel* pixel_kinds;  // on a PixelOp
  int32_t pixel_kind_count;
};

// Null where this build has no such set.
const Kernels* kernels_amx();
const Kernels* kernels_avx512();
const Kernels* kernels_avx2();
const Kernels* kernels_neon();
const Kernels* kernels_scalar();

struct KernelSet {
  const char* name;
  const Kernels* kernels;  // null: not on this machine
};
constexpr int kKernelSets = 5;
const KernelSet* kernel_sets();  // best first

// The kernel set called `name`; null: what the environment variable BBG_ISA says, else the best. Throws InvalidArgument
// where this machine has none of that name.
const Kernels& choose_kernels(const char* name);

}  // namespace bbg
