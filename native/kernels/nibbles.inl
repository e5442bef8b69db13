// CountMethod::lookup4, the table kernel: part of kernels.inl, for sets whose vocabulary has NibbleCounter and
// NibbleCounts.
//
// The counts of a nibble a against every nibble w are a row of 16 bytes; one shuffle picks them for 32 filters:
//
//   row[a]     popcount(a ^ 0), popcount(a ^ 1), ..., popcount(a ^ 15)     chosen by the pixel, alike in both halves
//   weights    w of filter 0, w of filter 16, w of filter 1, ...           shared by all pixels
//   shuffle    popcount(a ^ w of filter 0), ...                            added up in bytes
//
// So two vector operations take 128 bits, where counting words takes eight for 256.
//
// A byte holds the counts of 63 nibbles, which is 7 words; then they go to 16 bits, in memory. The weights of 7 words
// (3.5 KB) serve a stretch of the row before the next ones are touched: those of the whole window would not stay in the
// cache.

constexpr int kStretch = 16;  // pixels
constexpr int kByteWords = 7;

// Pixels of the next register block: four, but so that no single one remains where that can be helped.
inline int nibble_step(int64_t left) { return left >= 4 && left != 5 && left != 6 ? 4 : left >= 3 ? 3 : int(left); }

// Adds `words` items from `item` on to the counts, or begins them.
template <int P, int V>
BBG_BLOCK void count_nibbles(const OutputRow& row, const uint8_t* at, const uint8_t* w, int item, int words,
                             uint16_t* counts) {
  NibbleCounter<P, V> counter;
  counter.run(at, row.conv.column, row.block.offsets + item, w, words);
  item == 0 ? counter.store(counts) : counter.add(counts);
}

template <int P, int V>
BBG_BLOCK void apply_and_store_lookups(const OutputRow& row, const uint16_t* counts, int64_t stride, int64_t x, int c) {
  apply_and_store_counts<P, V, true>(row, NibbleCounts{counts, stride}, border<P>(row, x), x, c);
}

template <int P>
inline void apply_and_store_block(const OutputRow& row, const uint16_t* counts, int64_t stride, int64_t x) {
  const int vectors = row.block.vectors;
  int v = 0;
  for (; v + 2 <= vectors; v += 2)
    apply_and_store_lookups<P, 2>(row, counts + v * kLanes, stride, x, row.block.channel + v * kLanes);
  if (v < vectors) apply_and_store_lookups<P, 1>(row, counts + v * kLanes, stride, x, row.block.channel + v * kLanes);
}

// V vectors of 32 filters.
template <int V>
inline void nibble_stretches(const OutputRow& row) {
  constexpr int kFilters = 32 * V;
  alignas(32) uint16_t counts[kStretch * kFilters];
  const int64_t width = row.conv.out.width, column = row.conv.column;
  for (int64_t x = 0; x < width; x += kStretch) {
    const int pixels = width - x < kStretch ? int(width - x) : kStretch;
    const uint8_t* w = static_cast<const uint8_t*>(row.weights);
    int item = 0;
    do {  // once even where all taps are padding
      const int words = row.items - item < kByteWords ? row.items - item : kByteWords;
      for (int p = 0; p < pixels;) {
        const int step = nibble_step(pixels - p);
        const uint8_t* at = row.at + (x + p) * column;
        uint16_t* to = counts + p * kFilters;
        switch (step) {
          case 4: count_nibbles<4, V>(row, at, w, item, words, to); break;
          case 3: count_nibbles<3, V>(row, at, w, item, words, to); break;
          case 2: count_nibbles<2, V>(row, at, w, item, words, to); break;
          default: count_nibbles<1, V>(row, at, w, item, words, to);
        }
        p += step;
      }
      item += words;
      w += words * 8 * kFilters;
    } while (item < row.items);
    for (int p = 0; p < pixels;) {
      const int step = nibble_step(pixels - p);
      const uint16_t* from = counts + p * kFilters;
      switch (step) {
        case 4: apply_and_store_block<4>(row, from, kFilters, x + p); break;
        case 3: apply_and_store_block<3>(row, from, kFilters, x + p); break;
        case 2: apply_and_store_block<2>(row, from, kFilters, x + p); break;
        default: apply_and_store_block<1>(row, from, kFilters, x + p);
      }
      p += step;
    }
  }
}

inline void nibble_row(const OutputRow& row) {
  const int filters = row.block.vectors * kLanes;
  filters > 32 ? nibble_stretches<2>(row) : nibble_stretches<1>(row);
}
