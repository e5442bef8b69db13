// Convolution of bytes: part of kernels.inl.

// The words of Rests for output row y of image n; null where there are none.
#if BBG_HAS_RESTS
inline const uint8_t* rests(const Conv& k, int64_t n, int64_t y, int64_t member) {
  const Rests& r = k.rests;
  if (!r.words) return nullptr;
  const ConvRow& row = k.rows[y];
  uint8_t* const buffer = r.buffer + member * r.bytes;
  const uint8_t* first = k.input.data + n * k.input.image + row.offset + k.origin + r.from;
  for (int word = 0; word < r.words; ++word) {
    const int begin = row.first > 4 * word ? row.first : 4 * word, end = row.first + row.taps;
    const int rows = end < 4 * (word + 1) ? end - begin : 4 * (word + 1) - begin;
    const uint8_t* from = first + (begin - row.first) * k.below;
    words_of_rests(buffer + r.offsets[word], from, k.column, k.out.width, k.below, rows, begin - 4 * word);
  }
  return buffer;
}
#else
inline const uint8_t* rests(const Conv&, int64_t, int64_t, int64_t) { return nullptr; }
#endif

template <int P, int V>
struct Sums {
  I sum[P][V] = {};

  BBG_INLINE void run(const RowOf& row, const uint8_t* at, int64_t x) {
    const uint32_t* weights = static_cast<const uint32_t*>(row.weights);
    add_items(row.k.column, at, row.b.offsets, weights, row.items);
    if (!BBG_HAS_RESTS || !row.rests) return;
    const Rests& r = row.k.rests;
    weights = static_cast<const uint32_t*>(row.b.weights) + r.rows * row.b.row_weights;
    add_items(4, row.rests + 4 * x, r.offsets, weights, r.words);
  }

  BBG_INLINE void add_items(int64_t column, const uint8_t* at, const int32_t* offsets, const uint32_t* w, int items) {
    for (int j = 0; j < items; ++j, w += V * kLanes) {
      const uint8_t* a = at + offsets[j];
      I weight[V];
      BBG_UNROLL for (int v = 0; v < V; ++v) weight[v] = load_words(w + v * kLanes);
      BBG_UNROLL for (int p = 0; p < P; ++p) {
        const I word = splat_word(a + p * column);
        BBG_UNROLL for (int v = 0; v < V; ++v) sum[p][v] = dot(sum[p][v], word, weight[v]);
      }
    }
  }
};

template <int P, int V>
BBG_BLOCK void byte_pixels(const RowOf& row, const uint8_t* at, int64_t x) {
  Sums<P, V> sums;
  sums.run(row, at, x);
  F value[P][V];
  settle_sums<P, V, false>(row, sums.sum, value, border<P>(row, x), x, row.b.channel);
  put<P, V>(row.k.out, value, row.place, x, row.b.channel);
}

// The maxima of the columns 2j - 1, 2j and 2j + 1 from x / 2 on, of an even number of pixels from an even x on. `before`
// holds column x - 1 and then the last.
template <int P, int V>
BBG_BLOCK void pooled_pixels(const RowOf& row, const uint8_t* at, int64_t x, float* before) {
  Sums<P, V> sums;
  sums.run(row, at, x);
  F value[P][V], most[P / 2][V];
  settle_sums<P, V, false>(row, sums.sum, value, border<P>(row, x), x, row.b.channel);
  BBG_UNROLL for (int v = 0; v < V; ++v) {
    BBG_UNROLL for (int j = 0; j < P / 2; ++j) {
      const F left = j == 0 ? load(before + v * kLanes) : value[2 * j - 1][v];
      most[j][v] = max(max(left, value[2 * j][v]), value[2 * j + 1][v]);
    }
    store(before + v * kLanes, value[P - 1][v]);
  }
  put<P / 2, V>(row.k.out, most, row.place, x / 2, row.b.channel);
}

template <int V, bool kPooled>
inline void byte_row(const RowOf& row) {
  float before[V * kLanes];
  if (kPooled) {
    BBG_UNROLL for (int v = 0; v < V; ++v) store(before + v * kLanes, splat(-__builtin_inff()));
  }
  walk<kMaxPixels, !kPooled>(row.width, [&](auto pixels, int64_t x) {
    constexpr int P = decltype(pixels)::value;
    const uint8_t* at = row.at + x * row.k.column;
    if constexpr (kPooled && P % 2 == 0) {
      pooled_pixels<P, V>(row, at, x, before);
    } else if constexpr (!kPooled) {
      byte_pixels<P, V>(row, at, x);
    }
  });
}
