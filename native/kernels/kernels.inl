// The kernels, written once. Each set includes this file in an unnamed namespace; BBG_SET is its name, BBG_HAS_* say which
// of the ways of counting it has, and before comes its vocabulary (vector_*.h):
//
//   kLanes, kMaxPixels             floats per vector; pixels per register block
//   F, I                           vectors of kLanes float / int32
//   load store splat               memory and constants
//   add mul div fma max min        arithmetic; fma(a, b, c) = a * b + c
//   choose(v, above, below)        v >= 0 ? above : below
//   at_least(a, b)                 bit i: lane i of a >= lane i of b
//   to_float                       int32 -> float
//   Counter<P, V, Count>           the innermost loop: base - 2 * differing bits, of P pixels and V vectors of filters
//   load_words splat_word          32-bit words as I
//   dot(sum, bytes, weights)       sum + the products of the bytes in each word with as many weights
//   kByteSize, store_bytes         how bytes are kept
//   words_of_rests                 see Rests
//
// Nothing of the standard library is used here: code compiled for one instruction set must not leak into others.

#include "epilogue.inl"

// ---- convolution of bits and of bytes -----------------------------------------------------------------------------

// What the blocks of pixels of one row have in common. `at` points at the first valid tap of output column 0.
struct RowOf {
  const Conv& k;
  const ConvBlock& b;
  const uint8_t* at;
  const void* weights;  // of the first valid tap
  const uint8_t* rests;  // of output column 0
  const uint32_t* mask;
  int items;
  int64_t border;  // of the row's class in Conv::base
  int64_t width;
  Place place;
};

inline RowOf row_of(const Conv& k, const ConvBlock& b, int64_t n, int64_t y, int64_t width, const uint8_t* rests) {
  const ConvRow& row = k.rows[y];
  const int64_t skipped = row.first * b.row_weights;
  return {k,
          b,
          k.input.data + n * k.input.image + row.offset + k.origin,
          static_cast<const uint32_t*>(b.weights) + skipped,  // numbers are as wide
          rests,
          b.mask ? b.mask + skipped : nullptr,
          row.taps * b.items,
          row.cls * k.class_row,
          width,
          place(k.out, n, y, b.channel == 0)};
}

template <int N>
struct Int {
  static constexpr int value = N;
};

// Covers the columns [0, width) with blocks of as many pixels as fit: block(Int<pixels>(), first column). Seven pixels fill
// the registers as well as eight and divide the widths of the field; `kSeven` allows them.
template <int kMost, bool kSeven, class Block>
BBG_INLINE void walk(int64_t width, Block&& block) {
  for (int64_t x = 0; x < width;) {
    const int64_t left = width - x;
    if (kMost > 8 && left >= kMost) {
      block(Int<kMost>(), x), x += kMost;
    } else if (kMost >= 8 && left >= 8 && (!kSeven || left % 8 == 0 || left % 7 != 0)) {
      block(Int<kMost >= 8 ? 8 : 4>(), x), x += 8;
    } else if (kSeven && kMost >= 8 && left >= 7) {
      block(Int<kMost >= 8 ? 7 : 4>(), x), x += 7;
    } else if (left >= 4) {
      block(Int<4>(), x), x += 4;
    } else if (left >= 2) {
      block(Int<2>(), x), x += 2;
    } else {
      block(Int<1>(), x), x += 1;
    }
  }
}

// Where the numbers of the border classes of P columns from x on are: of column x + p from at + of[p] on, or of all from
// `at` on where `of` is null, which saves most loads.
struct Border {
  const int32_t* of;
  int64_t at;
};

template <int P>
BBG_INLINE Border border(const RowOf& row, int64_t x) {
  const int32_t* of = row.k.col_border + x;
  if (row.k.col_alike[x] >= P) return {nullptr, row.border + *of};
  return {of, row.border};
}

// From whole accumulators to real results.
template <int P, int V, bool kShift>
BBG_INLINE void settle_sums(const RowOf& row, const I (&sum)[P][V], F (&value)[P][V], const Border& edge, int64_t x, int c) {
  const Conv& k = row.k;
  BBG_UNROLL for (int p = 0; p < P; ++p) BBG_UNROLL for (int v = 0; v < V; ++v) value[p][v] = to_float(sum[p][v]);
  const float* bias = k.class_bias ? k.class_bias + edge.at : k.out.bias;
  settle<P, V, kShift>(k.out, value, row.place, x, c, bias + c, k.class_bias ? edge.of : nullptr);
}

// From the counts of P pixels from x on and V vectors of channels from c on to what the op writes.
template <int P, int V, bool kShift, class Counts>
BBG_INLINE void finish_counts(const RowOf& row, const Counts& counts, const Border& edge, int64_t x, int c) {
  const Conv& k = row.k;
  const Epilogue& e = k.out;
  const int32_t* base = k.base + edge.at + c;
  I sum[P][V];
  BBG_UNROLL for (int p = 0; p < P; ++p) {
    BBG_UNROLL for (int v = 0; v < V; ++v) sum[p][v] = counts.result(p, v, base + (edge.of ? edge.of[p] : 0) + v * kLanes);
  }
  if (e.threshold) {
    const int64_t step = e.bits.pixel;
    uint8_t* bits = row.place.bits + x * step;
    I threshold[V];
    BBG_UNROLL for (int v = 0; v < V; ++v) threshold[v] = load(e.threshold + c + v * kLanes);
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      uint32_t mask[V];
      BBG_UNROLL for (int v = 0; v < V; ++v) mask[v] = at_least(sum[p][v], threshold[v]);
      store_bits<V>(bits + p * step + c / 8, mask);
    }
    clear_tail<V>(e, bits, c, P);
    return;
  }
  F value[P][V];
  settle_sums<P, V, kShift>(row, sum, value, edge, x, c);
  put<P, V>(e, value, row.place, x, c);
}

template <int P, int V, Count kCount>
BBG_BLOCK void binary_pixels(const RowOf& row, const uint8_t* at, int64_t x) {
  constexpr bool kShift = kCount != Count::triples;  // whether there may be one
  const int c = row.b.channel;
  const Border edge = border<P>(row, x);
  Counter<P, V, kCount> counter(row.k.base + edge.at + c, edge.of);
  counter.run(row.k, at, row.b.offsets, static_cast<const uint32_t*>(row.weights), row.mask, row.items);
  finish_counts<P, V, kShift>(row, counter, edge, x, c);
}

template <int V, Count kCount>
inline void binary_row(const RowOf& row) {
  // Masks are not worth more code; pairs take half the registers.
  constexpr int kMost = kCount == Count::masked && kMaxPixels > 4 ? 4 : kCount == Count::pairs ? 2 * kMaxPixels / V : kMaxPixels;
  walk<kMost, kCount != Count::pairs>(row.width, [&](auto pixels, int64_t x) {
    binary_pixels<decltype(pixels)::value, V, kCount>(row, row.at + x * row.k.column, x);
  });
}

#if BBG_HAS_NIBBLES
#include "nibbles.inl"
#endif

#include "bytes.inl"

template <int V>
inline void binary_item(const RowOf& row) {
  switch (row.k.count) {
    case Count::words: return binary_row<V, Count::words>(row);
    case Count::masked: return binary_row<V, Count::masked>(row);
    case Count::bytes: return byte_row<V, false>(row);
#if BBG_HAS_TRIPLES
    case Count::triples: return binary_row<V, Count::triples>(row);
#endif
#if BBG_HAS_NIBBLES
    case Count::nibbles: return nibble_row(row);
#endif
#if BBG_HAS_PAIRS
    case Count::pairs: return binary_row<V, Count::pairs>(row);
#endif
    default: return;  // not chosen for a set that lacks it
  }
}

// Calls two(row) or one(row) for each item, by the number of vectors of its block.
template <void (*kTwo)(const RowOf&), void (*kOne)(const RowOf&)>
inline void conv_items(const void* args, int64_t images, int64_t begin, int64_t end, int64_t member) {
  const Conv& k = *static_cast<const Conv*>(args);
  const int64_t per_block = k.together ? 1 : images * k.out.height, width = k.together ? images : k.out.width;
  for (int64_t item = begin; item < end; ++item) {
    const ConvBlock& b = k.blocks[item / per_block];
    const int64_t n = item % per_block / k.out.height, y = item % k.out.height;
    const RowOf row = row_of(k, b, n, y, width, rests(k, n, y, member));
    b.vectors == 2 ? kTwo(row) : kOne(row);
  }
}

void binary_conv(const void* args, int64_t images, int64_t begin, int64_t end, int64_t member) {
  conv_items<binary_item<2>, binary_item<1>>(args, images, begin, end, member);
}

void parity(const void* args, int64_t, int64_t begin, int64_t end, int64_t) {
  const Parity& k = *static_cast<const Parity*>(args);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / k.rows * k.image + item % k.rows * k.row, step = k.next / 4;
    const uint32_t* from = reinterpret_cast<const uint32_t*>(k.from + row);
    uint32_t* to = reinterpret_cast<uint32_t*>(k.to + row);
    for (int64_t w = 0; w + 2 * step < k.row / 4; ++w) to[w] = from[w] ^ from[w + step] ^ from[w + 2 * step];
  }
}

// ---- float convolution --------------------------------------------------------------------------------------------

template <int P, int V>
BBG_BLOCK void conv_pixels(const RowOf& row, const uint8_t* at, int64_t x) {
  const Conv& k = row.k;
  F acc[P][V];
  BBG_UNROLL for (int p = 0; p < P; ++p) BBG_UNROLL for (int v = 0; v < V; ++v) acc[p][v] = splat(0);
  const float* w = static_cast<const float*>(row.weights);
  for (int j = 0; j < row.items; ++j, w += V * kLanes) {
    const uint8_t* a = at + row.b.offsets[j];
    F weight[V];
    BBG_UNROLL for (int v = 0; v < V; ++v) weight[v] = load(w + v * kLanes);
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      const F in = splat(*reinterpret_cast<const float*>(a + p * k.column));
      BBG_UNROLL for (int v = 0; v < V; ++v) acc[p][v] = fma(in, weight[v], acc[p][v]);
    }
  }
  finish<P, V>(k.out, acc, row.place, x, row.b.channel, k.out.bias + row.b.channel, nullptr);
}

inline F item(const RowOf& row, int j) {
  return splat(*reinterpret_cast<const float*>(row.at + row.b.offsets[j]));
}

// One output pixel per image (linear layers): four partial sums hide the latency of the additions.
template <int V>
BBG_BLOCK void conv_single(const RowOf& row) {
  constexpr int kSums = 4;
  const Conv& k = row.k;
  F acc[kSums][V];
  BBG_UNROLL for (int s = 0; s < kSums; ++s) BBG_UNROLL for (int v = 0; v < V; ++v) acc[s][v] = splat(0);
  const float* w = static_cast<const float*>(row.weights);
  const int64_t width = row.b.width;
  int j = 0;
  for (; j + kSums <= row.items; j += kSums, w += kSums * width) {
    BBG_UNROLL for (int s = 0; s < kSums; ++s) {
      const F in = item(row, j + s);
      BBG_UNROLL for (int v = 0; v < V; ++v) acc[s][v] = fma(in, load(w + s * width + v * kLanes), acc[s][v]);
    }
  }
  for (; j < row.items; ++j, w += width) {
    BBG_UNROLL for (int v = 0; v < V; ++v) acc[0][v] = fma(item(row, j), load(w + v * kLanes), acc[0][v]);
  }
  F sum[1][V];
  BBG_UNROLL for (int v = 0; v < V; ++v) sum[0][v] = add(add(acc[0][v], acc[1][v]), add(acc[2][v], acc[3][v]));
  finish<1, V>(k.out, sum, row.place, 0, row.b.channel, k.out.bias + row.b.channel, nullptr);
}

// Each filter has one channel, its own: a load takes the lanes' numbers of a tap. Those of taps beside the map are 0. Here
// loads are what is short, so that tap offsets are not loaded but added up: that is an eighth of the time on Zen 5.
template <int P, int V>
BBG_BLOCK void depthwise_pixels(const RowOf& row, const uint8_t* at, int64_t x) {
  const Conv& k = row.k;
  F acc[P][V];
  BBG_UNROLL for (int p = 0; p < P; ++p) BBG_UNROLL for (int v = 0; v < V; ++v) acc[p][v] = splat(0);
  const float* w = static_cast<const float*>(row.weights);
  at += row.b.channel * int64_t(sizeof(float));
  const int64_t column = k.column, next = k.next, below = k.below;
  for (int j = 0; j < row.items; j += row.b.items, at += below) {
    const uint8_t* a = at;
    for (int t = 0; t < row.b.items; ++t, a += next, w += V * kLanes) {
      F weight[V];
      BBG_UNROLL for (int v = 0; v < V; ++v) weight[v] = load(w + v * kLanes);
      BBG_UNROLL for (int p = 0; p < P; ++p) {
        const float* in = reinterpret_cast<const float*>(a + p * column);
        BBG_UNROLL for (int v = 0; v < V; ++v) acc[p][v] = fma(load(in + v * kLanes), weight[v], acc[p][v]);
      }
    }
  }
  finish<P, V>(k.out, acc, row.place, x, row.b.channel, k.out.bias + row.b.channel, nullptr);
}

template <int V, bool kDepthwise>
inline void float_row(const RowOf& row) {
  walk<kMaxPixels, true>(row.width, [&](auto pixels, int64_t x) {
    constexpr int P = decltype(pixels)::value;
    const uint8_t* at = row.at + x * row.k.column;
    kDepthwise ? depthwise_pixels<P, V>(row, at, x) : conv_pixels<P, V>(row, at, x);
  });
}

template <int V>
inline void conv_item(const RowOf& row) {
  if (row.k.out.height == 1 && row.k.out.width == 1) return conv_single<V>(row);
  float_row<V, false>(row);
}

void conv(const void* args, int64_t images, int64_t begin, int64_t end, int64_t member) {
  conv_items<conv_item<2>, conv_item<1>>(args, images, begin, end, member);
}

void depthwise(const void* args, int64_t images, int64_t begin, int64_t end, int64_t member) {
  conv_items<float_row<2, true>, float_row<1, true>>(args, images, begin, end, member);
}

#include "pools.inl"
#include "values.inl"

const Kernels table = {BBG_SET, kLanes, kByteSize, BBG_HAS_PAIRS, BBG_HAS_TRIPLES, BBG_HAS_NIBBLES, BBG_HAS_RESTS,
                       binary_conv, parity, conv, depthwise, conv_pool, pool, pool_bits, match, gather, multiply, curve,
                       layer_norm};
