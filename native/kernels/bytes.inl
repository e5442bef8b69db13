// CountMethod::int8, the convolution of bytes: part of kernels.inl.

// Gathers the TailBytes of output row y of image n; null where there are none.
#if BBG_HAS_TAIL_BYTES
inline const uint8_t* tail_bytes(const Conv& conv, const Worker& worker, int64_t n, int64_t y) {
  const TailBytes& r = conv.tail_bytes;
  if (!r.words) return nullptr;
  const ConvRow& row = conv.rows[y];
  uint8_t* const buffer = worker.workspace + (r.buffer + worker.member * r.bytes);
  const uint8_t* first = pixel_of(conv.input, worker, n, 0, 0) + row.offset + conv.origin + r.from;
  for (int word = 0; word < r.words; ++word) {
    const int begin = row.first > 4 * word ? row.first : 4 * word, end = row.first + row.taps;
    const int rows = end < 4 * (word + 1) ? end - begin : 4 * (word + 1) - begin;
    const uint8_t* from = first + (begin - row.first) * conv.below;
    gather_tail_bytes(buffer + r.offsets[word], from, conv.column, conv.out.width, conv.below, rows, begin - 4 * word);
  }
  return buffer;
}
#else
inline const uint8_t* tail_bytes(const Conv&, const Worker&, int64_t, int64_t) { return nullptr; }
#endif

template <int P, int V>
struct Sums {
  I sum[P][V] = {};

  BBG_INLINE void run(const OutputRow& row, const uint8_t* at, int64_t x) {
    const uint32_t* weights = static_cast<const uint32_t*>(row.weights);
    add_items(row.conv.column, at, row.block.offsets, weights, row.items);
    if (!BBG_HAS_TAIL_BYTES || !row.tail_bytes) return;
    const TailBytes& r = row.conv.tail_bytes;
    weights = static_cast<const uint32_t*>(row.block.weights) + r.rows * row.block.row_weights;
    add_items(4, row.tail_bytes + 4 * x, r.offsets, weights, r.words);
  }

  BBG_INLINE void add_items(int64_t column, const uint8_t* at, const int32_t* offsets, const uint32_t* w, int items) {
    for (int j = 0; j < items; ++j, w += V * kLanes) {
      const uint8_t* a = at + offsets[j];
      I weight[V];
      BBG_FOR(v, V) weight[v] = load_words(w + v * kLanes);
      BBG_FOR(p, P) {
        const I word = splat_word(a + p * column);
        BBG_FOR(v, V) sum[p][v] = dot(sum[p][v], word, weight[v]);
      }
    }
  }
};

// From the sums of P columns from x on to what the op writes.
template <int P, int V>
BBG_INLINE void store_sums(const OutputRow& row, const I (&sum)[P][V], int64_t x) {
  F value[P][V];
  apply_epilogue_to_sums<P, V, false, true>(row, sum, value, border<P>(row, x), x, row.block.channel);
  store_result<P, V>(row.conv.out, value, row.to, x, row.block.channel);
}

template <int P, int V>
BBG_BLOCK void byte_pixels(const OutputRow& row, const uint8_t* at, int64_t x) {
  Sums<P, V> sums;
  sums.run(row, at, x);
  store_sums<P, V>(row, sums.sum, x);
}

// A 3-wide max-pool with stride 2, done across the columns while the sums are in registers. x is even, and so is P
// except at the end of a row. Each output shares a column with the one before, so `before` hands on what column x - 1
// and, without padding, column x - 2 have come to.
//
//   columns          x-2  x-1 | x   x+1 | x+2  x+3 | ...
//   padding 1           [      x/2     ]                 output j is the maximum of the columns 2j - 1, 2j, 2j + 1
//                                 [     x/2 + 1    ]
//   no padding      [    x/2   ]                         output j is that of 2j - 2, 2j - 1, 2j: the pool's output
//                             [     x/2 + 1 ]            j - 1, and output 0 is not read
template <Columns kColumns, int P, int V>
BBG_INLINE void pool_sums(const OutputRow& row, const I (&sum)[P][V], int64_t x, float* before) {
  constexpr int kOutputs = (P + 1) / 2;
  F value[P][V], most[kOutputs][V];
  apply_epilogue_to_sums<P, V, false, true>(row, sum, value, border<P>(row, x), x, row.block.channel);
  BBG_FOR(v, V) {
    F left = load(before + v * kLanes);
    BBG_FOR(j, kOutputs) {
      const F even = value[2 * j][v], odd = value[2 * j + (2 * j + 1 < P)][v];
      if (kColumns == Columns::padded) {
        most[j][v] = max(max(left, even), odd);
        left = odd;
      } else {
        most[j][v] = max(left, even);
        left = max(even, odd);
      }
    }
    store(before + v * kLanes, left);
  }
  store_result<kOutputs, V>(row.conv.out, most, row.to, x / 2, row.block.channel);
}

// Beside the map is less than every number.
template <int V>
BBG_INLINE void start_pooling(float* before) {
  BBG_FOR(v, V) store(before + v * kLanes, splat(-__builtin_inff()));
}

#if BBG_HAS_TILES
#include "tiles.inl"
#endif

template <Columns kColumns, int P, int V>
BBG_BLOCK void pooled_pixels(const OutputRow& row, const uint8_t* at, int64_t x, float* before) {
  Sums<P, V> sums;
  sums.run(row, at, x);
  pool_sums<kColumns, P, V>(row, sums.sum, x, before);
}

template <int V, Columns kColumns>
inline void byte_row(const OutputRow& row) {
#if BBG_HAS_TILES
  if (row.conv.tiles.bytes) return tile_row<V, kColumns>(row);
#endif
  constexpr bool kAll = kColumns == Columns::all;
  if constexpr (kAll && kBytePixels != kMaxPixels) {
    return for_even_blocks<kBytePixels>(row.width, [&](auto pixels, int64_t x) {
      byte_pixels<decltype(pixels)::value, V>(row, row.at + x * row.conv.column, x);
    });
  }
  float before[V * kLanes];
  if (!kAll) start_pooling<V>(before);
  for_pixel_blocks<kMaxPixels, kAll>(row.width, [&](auto pixels, int64_t x) {
    constexpr int P = decltype(pixels)::value;
    const uint8_t* at = row.at + x * row.conv.column;
    if constexpr (!kAll) {
      pooled_pixels<kColumns, P, V>(row, at, x, before);
    } else {
      byte_pixels<P, V>(row, at, x);
    }
  });
}
