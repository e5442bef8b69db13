// The kernels, written once. Each set (avx512.cpp, ...) includes this file in an unnamed namespace. BBG_SET is the
// set's name, BBG_HAS_* say which counting methods it has. Its vocabulary (vector_*.h) is included before:
//
//   kLanes, kMaxPixels               floats per vector; pixels per register block
//   kBytePixels                      the same where bytes are multiplied
//   F, I                             vectors of kLanes float / int32
//   load store splat                 memory and constants
//   take(kept, from, lane)           lane i: from[lane[i]], or kept[i] where lane[i] is -1
//   add mul div fma max min          arithmetic; fma(a, b, c) = a * b + c
//   select_by_sign(v, above, below)  v >= 0 ? above : below
//   ge_mask(a, b)                    bit i: lane i of a >= lane i of b
//   split_power(x, f)                the n of x = 2^n f, with f from sqrt(1/2) to sqrt(2); x > 0 and normal
//   to_float                         int32 -> float
//   Counter<P, V, CountMethod>       the innermost loop: base - 2 * differing bits, for P pixels and V vectors
//   load_words splat_word            32-bit words as I
//   dot(sum, bytes, weights)         sum + the products of the bytes in each word with as many weights
//   kByteSize, store_bytes           how bytes are kept; where they take one byte, also of two pixels at a time
//   bytes_as_floats                  a vector of them
//   kMoved, B                        bytes that move together, a multiple of a vector's; a vector of them
//   load_moved store_first           memory: store_first(p, v, n) stores the first n bytes, n a multiple of a vector's
//   take_bytes(kept, from, byte)     byte i: from[byte[i]], or kept[i] where byte[i] is kNoByte
//   max_bytes                        of unsigned bytes
//   gather_tail_bytes                see TailBytes
//   stack_taps                       see StackedTaps
//
// Short names, everywhere the same: P pixels and V vectors of a register block, p and v their indices; n image, y row,
// x column, c channel of the result; e the epilogue, w weights, a activations.
//
// Nothing of the standard library is used here: code compiled for one instruction set must not leak into others.

#include "epilogue.inl"

// ---- convolution of bits and of bytes -----------------------------------------------------------------------------

// What the blocks of pixels of one output row have in common. `at` points at the first valid tap of output column 0.
struct OutputRow {
  const Conv& conv;
  const ConvBlock& block;
  const uint8_t* at;
  const void* weights;        // of the first valid tap
  const uint8_t* tail_bytes;  // of output column 0
  const uint32_t* mask;
  int items;
  int64_t border;  // of the row's border class in Conv::base
  int64_t width;
  RowPointers to;
};

inline OutputRow output_row(const Conv& conv, const ConvBlock& block, const Worker& worker, int64_t n, int64_t y,
                            int64_t width, const uint8_t* tail_bytes) {
  const ConvRow& row = conv.rows[y];
  const int64_t skipped = row.first * block.row_weights;
  return {conv,
          block,
          pixel_of(conv.input, worker, n, 0, 0) + row.offset + conv.origin,
          static_cast<const uint32_t*>(block.weights) + skipped,  // numbers are as wide
          tail_bytes,
          block.mask ? block.mask + skipped : nullptr,
          row.taps * block.items,
          row.border_class * conv.class_row,
          width,
          row_pointers(conv.out, worker, n, y, block.channel == 0)};
}

template <int N>
struct Int {
  static constexpr int value = N;
};

// Covers the columns [0, width) with blocks of as many pixels as fit: block(Int<pixels>(), first column). Seven pixels
// fill the registers as well as eight and divide the widths of the field; `kSeven` allows them.
template <int kMost, bool kSeven, class Block>
BBG_INLINE void for_pixel_blocks(int64_t width, Block&& block) {
  for (int64_t x = 0; x < width;) {
    const int64_t left = width - x;
    if (kMost > 8 && left >= kMost) {
      block(Int<kMost>(), x), x += kMost;
    } else if (kMost >= 8 && left >= 8 && (!kSeven || left % 8 == 0 || left % 7 != 0)) {
      block(Int<(kMost >= 8 ? 8 : 4)>(), x), x += 8;
    } else if (kSeven && kMost >= 8 && left >= 7) {
      block(Int<(kMost >= 8 ? 7 : 4)>(), x), x += 7;
    } else if (left >= 4) {
      block(Int<4>(), x), x += 4;
    } else if (left >= 2) {
      block(Int<2>(), x), x += 2;
    } else {
      block(Int<1>(), x), x += 1;
    }
  }
}

// block(Int<pixels>(), x), for at most P pixels.
template <int P, class Block>
BBG_INLINE void block_of(int64_t pixels, int64_t x, Block&& block) {
  if constexpr (P > 1) {
    if (pixels < P) return block_of<P - 1>(pixels, x, block);
  }
  block(Int<P>(), x);
}

// Covers the columns [0, width) with blocks of at most kMost pixels and nearly one size: 14 columns are 5 + 5 + 4.
template <int kMost, class Block>
BBG_INLINE void for_even_blocks(int64_t width, Block&& block) {
  int64_t x = 0;
  for (int64_t blocks = (width + kMost - 1) / kMost; blocks > 0; --blocks) {
    const int64_t pixels = (width - x + blocks - 1) / blocks;
    block_of<kMost>(pixels, x, block);
    x += pixels;
  }
}

// Where Conv::base and Conv::class_bias hold the numbers of P columns from x on: those of column x + p at at + of[p],
// or where `of` is null, those of all columns at `at`. The second form saves most loads.
struct Border {
  const int32_t* of;
  int64_t at;
};

template <int P>
BBG_INLINE Border border(const OutputRow& row, int64_t x) {
  const int32_t* of = row.conv.column_border + x;
  if (row.conv.column_run[x] >= P) return {nullptr, row.border + *of};
  return {of, row.border};
}

// From whole accumulators to real results.
template <int P, int V, bool kShift, bool kNumbers>
BBG_INLINE void apply_epilogue_to_sums(const OutputRow& row, const I (&sum)[P][V], F (&value)[P][V], const Border& edge,
                                       int64_t x, int c) {
  const Conv& conv = row.conv;
  BBG_FOR(p, P)
    BBG_FOR(v, V) value[p][v] = to_float(sum[p][v]);
  const float* bias = conv.class_bias ? conv.class_bias + edge.at : conv.out.bias;
  const int32_t* border = conv.class_bias ? edge.of : nullptr;
  apply_epilogue<P, V, kShift, kNumbers>(conv.out, value, row.to, x, c, bias + c, border);
}

// From the counts of P pixels from x on and V vectors of channels from c on to what the op writes.
template <int P, int V, bool kShift, class Counts>
BBG_INLINE void apply_and_store_counts(const OutputRow& row, const Counts& counts, const Border& edge, int64_t x,
                                       int c) {
  const Conv& conv = row.conv;
  const Epilogue& e = conv.out;
  const int32_t* base = conv.base + edge.at + c;
  I sum[P][V];
  BBG_FOR(p, P) {
    BBG_FOR(v, V) sum[p][v] = counts.result(p, v, base + (edge.of ? edge.of[p] : 0) + v * kLanes);
  }
  if (e.acc_threshold) {
    const int64_t step = e.bits.pixel;
    uint8_t* bits = row.to.bits + x * step;
    I threshold[V];
    BBG_FOR(v, V) threshold[v] = load(e.acc_threshold + c + v * kLanes);
    BBG_FOR(p, P) {
      uint32_t mask[V];
      BBG_FOR(v, V) mask[v] = ge_mask(sum[p][v], threshold[v]);
      store_bits<V>(bits + p * step + c / 8, mask);
    }
    clear_tail<V>(e, bits, c, P);
    return;
  }
  F value[P][V];
  apply_epilogue_to_sums<P, V, kShift, false>(row, sum, value, edge, x, c);
  store_result<P, V>(e, value, row.to, x, c);
}

template <int P, int V, CountMethod kMethod>
BBG_BLOCK void binary_pixels(const OutputRow& row, const uint8_t* at, int64_t x) {
  constexpr bool kShift = kMethod != CountMethod::carry_save;  // whether there may be one
  const int c = row.block.channel;
  const Border edge = border<P>(row, x);
  Counter<P, V, kMethod> counter(row.conv.base + edge.at + c, edge.of);
  counter.run(row.conv, at, row.block.offsets, static_cast<const uint32_t*>(row.weights), row.mask, row.items);
  apply_and_store_counts<P, V, kShift>(row, counter, edge, x, c);
}

template <int V, CountMethod kMethod>
inline void binary_row(const OutputRow& row) {
  // Masks are not worth more code; two pixels take half the registers.
  constexpr bool kTwoPixels = kMethod == CountMethod::two_pixels, kMasked = kMethod == CountMethod::masked;
  constexpr int kMost = kTwoPixels ? 2 * kMaxPixels / V : kMasked && kMaxPixels > 4 ? 4 : kMaxPixels;
  for_pixel_blocks<kMost, !kTwoPixels>(row.width, [&](auto pixels, int64_t x) {
    binary_pixels<decltype(pixels)::value, V, kMethod>(row, row.at + x * row.conv.column, x);
  });
}

#if BBG_HAS_LOOKUP4
#include "nibbles.inl"
#endif

#include "bytes.inl"

template <int V>
inline void binary_item(const OutputRow& row) {
  switch (row.conv.method) {
    case CountMethod::words: return binary_row<V, CountMethod::words>(row);
    case CountMethod::masked: return binary_row<V, CountMethod::masked>(row);
    case CountMethod::int8: return byte_row<V, Columns::all>(row);
#if BBG_HAS_CARRY_SAVE
    case CountMethod::carry_save: return binary_row<V, CountMethod::carry_save>(row);
#endif
#if BBG_HAS_LOOKUP4
    case CountMethod::lookup4: return nibble_row(row);
#endif
#if BBG_HAS_TWO_PIXELS
    case CountMethod::two_pixels: return binary_row<V, CountMethod::two_pixels>(row);
#endif
    default: return;  // not chosen for a set that lacks it
  }
}

// Calls kTwo(row) or kOne(row) for each item, by the number of vectors of its block.
template <void (*kTwo)(const OutputRow&), void (*kOne)(const OutputRow&)>
inline void conv_items(const void* args, const Worker& worker, int64_t images, int64_t begin, int64_t end) {
  const Conv& conv = *static_cast<const Conv*>(args);
  const int64_t per_block = conv.images_as_columns ? 1 : images * conv.out.height;
  const int64_t width = conv.images_as_columns ? images : conv.out.width;
  for (int64_t item = begin; item < end; ++item) {
    const ConvBlock& block = conv.blocks[item / per_block];
    const int64_t n = item % per_block / conv.out.height, y = item % conv.out.height;
    const OutputRow row = output_row(conv, block, worker, n, y, width, tail_bytes(conv, worker, n, y));
    block.vectors == 2 ? kTwo(row) : kOne(row);
  }
}

void binary_conv(const void* args, const Worker& worker, int64_t images, int64_t begin, int64_t end) {
#if BBG_HAS_TILES
  const Conv& tiled = *static_cast<const Conv*>(args);
  if (tiled.tiles.bytes) return tile_conv(tiled, worker, images, begin, end);
#endif
  conv_items<binary_item<2>, binary_item<1>>(args, worker, images, begin, end);
}

void parity(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const Parity& k = *static_cast<const Parity*>(args);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / k.rows * k.image + item % k.rows * k.row, step = k.next / 4;
    const uint32_t* from = reinterpret_cast<const uint32_t*>(worker.workspace + (k.from + row));
    uint32_t* to = reinterpret_cast<uint32_t*>(worker.workspace + (k.to + row));
    for (int64_t w = 0; w + 2 * step < k.row / 4; ++w) to[w] = from[w] ^ from[w + step] ^ from[w + 2 * step];
  }
}

// ---- float convolution --------------------------------------------------------------------------------------------

template <int P, int V>
BBG_BLOCK void conv_pixels(const OutputRow& row, const uint8_t* at, int64_t x) {
  const Conv& conv = row.conv;
  F acc[P][V];
  BBG_FOR(p, P)
    BBG_FOR(v, V) acc[p][v] = splat(0);
  const float* w = static_cast<const float*>(row.weights);
  for (int j = 0; j < row.items; ++j, w += V * kLanes) {
    const uint8_t* a = at + row.block.offsets[j];
    F weight[V];
    BBG_FOR(v, V) weight[v] = load(w + v * kLanes);
    BBG_FOR(p, P) {
      const F in = splat(*reinterpret_cast<const float*>(a + p * conv.column));
      BBG_FOR(v, V) acc[p][v] = fma(in, weight[v], acc[p][v]);
    }
  }
  const int c = row.block.channel;
  apply_and_store<P, V, false, true>(conv.out, acc, row.to, x, c, conv.out.bias + c, nullptr);
}

inline F item(const OutputRow& row, int j) {
  return splat(*reinterpret_cast<const float*>(row.at + row.block.offsets[j]));
}

// One output pixel per image (linear layers): four partial sums hide the latency of the additions.
template <int V>
BBG_BLOCK void conv_single(const OutputRow& row) {
  constexpr int kSums = 4;
  const Conv& conv = row.conv;
  F acc[kSums][V];
  BBG_FOR(s, kSums)
    BBG_FOR(v, V) acc[s][v] = splat(0);
  const float* w = static_cast<const float*>(row.weights);
  const int64_t width = row.block.width;
  int j = 0;
  for (; j + kSums <= row.items; j += kSums, w += kSums * width) {
    BBG_FOR(s, kSums) {
      const F in = item(row, j + s);
      BBG_FOR(v, V) acc[s][v] = fma(in, load(w + s * width + v * kLanes), acc[s][v]);
    }
  }
  for (; j < row.items; ++j, w += width) {
    BBG_FOR(v, V) acc[0][v] = fma(item(row, j), load(w + v * kLanes), acc[0][v]);
  }
  F sum[1][V];
  BBG_FOR(v, V) sum[0][v] = add(add(acc[0][v], acc[1][v]), add(acc[2][v], acc[3][v]));
  const int c = row.block.channel;
  apply_and_store<1, V, false, true>(conv.out, sum, row.to, 0, c, conv.out.bias + c, nullptr);
}

template <int V>
inline void conv_item(const OutputRow& row) {
  if (row.conv.out.height == 1 && row.conv.out.width == 1) return conv_single<V>(row);
  for_pixel_blocks<kMaxPixels, true>(row.width, [&](auto pixels, int64_t x) {
    conv_pixels<decltype(pixels)::value, V>(row, row.at + x * row.conv.column, x);
  });
}

void conv(const void* args, const Worker& worker, int64_t images, int64_t begin, int64_t end) {
  conv_items<conv_item<2>, conv_item<1>>(args, worker, images, begin, end);
}

#include "depthwise.inl"
#include "moves.inl"
#include "pools.inl"
#include "unary.inl"
#include "values.inl"
#include "window_sum.inl"

constexpr const auto& kFunctions = UnaryTable<UnaryFunctions>::rows;

const Kernels table = {BBG_SET,
                       kLanes,
                       kByteSize,
                       kMoved,
                       BBG_HAS_TWO_PIXELS,
                       BBG_HAS_CARRY_SAVE,
                       BBG_HAS_LOOKUP4,
                       BBG_HAS_TAIL_BYTES,
                       BBG_HAS_TILES,
                       binary_conv,
                       parity,
                       window_sum,
                       conv,
                       depthwise,
                       depthwise_bytes,
                       conv_pool,
                       pool,
                       pool_bits,
                       pool_bytes,
                       match,
                       max_channels,
                       gather,
                       gather_bytes,
                       depth_to_space,
                       bilinear,
                       take,
                       multiply,
                       kFunctions,
                       int32_t(sizeof kFunctions / sizeof *kFunctions),
                       kPixelKinds,
                       int32_t(sizeof kPixelKinds / sizeof *kPixelKinds)};
