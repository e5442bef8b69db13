// Convolutions whose filters have one channel each, their own: part of kernels.inl.

// An item is a block of an output row. Those of a row follow each other: they read the same lines of the cache, and
// their weights are few.
template <class Run>
inline void depthwise_items(const Conv& conv, const Worker& worker, int64_t begin, int64_t end, Run&& run) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / conv.block_count, n = row / conv.out.height, y = row % conv.out.height;
    run(output_row(conv, conv.blocks[item % conv.block_count], worker, n, y, conv.out.width, nullptr));
  }
}

// ---- of real numbers ----------------------------------------------------------------------------------------------

// One load takes a tap's numbers of all lanes. Taps beside the map read zeros of the margin. Loads are the bottleneck
// here, so tap offsets are added up instead of loaded: an eighth less time on a Zen 5 core. With kPart the last vector
// is not full; nothing is read behind its last channel, where another thread may be writing the result
// (plan/joins.cpp).
template <int P, int V, bool kPart>
BBG_BLOCK void depthwise_pixels(const OutputRow& row, const uint8_t* at, int64_t x) {
  const Conv& conv = row.conv;
  F acc[P][V];
  BBG_FOR(p, P)
    BBG_FOR(v, V) acc[p][v] = splat(0);
  const float* w = static_cast<const float*>(row.weights);
  at += row.block.channel * int64_t(sizeof(float));
  const int64_t column = conv.column, next = conv.next, below = conv.below;
  const int part = conv.out.channels - row.block.channel - (V - 1) * kLanes;
  for (int j = 0; j < row.items; j += row.block.items, at += below) {
    const uint8_t* a = at;
    for (int t = 0; t < row.block.items; ++t, a += next, w += V * kLanes) {
      F weight[V];
      BBG_FOR(v, V) weight[v] = load(w + v * kLanes);
      BBG_FOR(p, P) {
        const float* in = reinterpret_cast<const float*>(a + p * column);
        BBG_FOR(v, V) {
          const float* lanes = in + v * kLanes;
          acc[p][v] = fma(kPart && v == V - 1 ? load_first(lanes, part) : load(lanes), weight[v], acc[p][v]);
        }
      }
    }
  }
  const int c = row.block.channel;
  apply_and_store<P, V, false, true>(conv.out, acc, row.to, x, c, conv.out.bias + c, nullptr);
}

template <int V, bool kPart>
inline void depthwise_row(const OutputRow& row) {
  for_pixel_blocks<kMaxPixels, true>(row.width, [&](auto pixels, int64_t x) {
    depthwise_pixels<decltype(pixels)::value, V, kPart>(row, row.at + x * row.conv.column, x);
  });
}

template <int V>
inline void depthwise_item(const OutputRow& row) {
  const bool part = row.block.channel + V * kLanes > row.conv.out.channels;
  part ? depthwise_row<V, true>(row) : depthwise_row<V, false>(row);
}

void depthwise(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  depthwise_items(*static_cast<const Conv*>(args), worker, begin, end, [](const OutputRow& row) {
    row.block.vectors == 2 ? depthwise_item<2>(row) : depthwise_item<1>(row);
  });
}

// ---- of bytes -----------------------------------------------------------------------------------------------------
//
// The numbers of a channel in taps above each other make a word, so that one instruction multiplies and adds up to four
// taps. A column's words serve all windows that it lies in.
//
//   a column of the input                  its words
//     tap row 0   | a0 b0 c0 ... |
//     tap row 1   | a1 b1 c1 ... |   ->    | a0 a1 a2 0 | b0 b1 b2 0 | c0 c1 c2 0 | ... lanes
//     tap row 2   | a2 b2 c2 ... |
//
// Taps beside the map are 0: vertically by leaving them out of the words, horizontally by reading the margin.

constexpr int kPerWord = 4 / kByteSize;

// Collects the words of output row `row` in `words`.
template <int V>
inline void stack_columns(const OutputRow& row, uint8_t* words) {
  const Conv& conv = row.conv;
  const ConvRow& taps = conv.rows[row.to.y];
  constexpr int64_t kColumn = V * kLanes * 4;
  const int end = taps.first + taps.taps;
  const uint8_t* at = row.at + row.block.channel * kByteSize;
  for (int begin = taps.first; begin < end;) {
    const int word = begin / kPerWord, next = kPerWord * (word + 1), until = end < next ? end : next;
    stack_taps<V>(words + word * conv.stacked.columns * kColumn, at, conv.input.pixel, conv.stacked.columns, conv.below,
                  until - begin, begin % kPerWord);
    at += (until - begin) * conv.below;
    begin = until;
  }
}

template <int P, int V>
BBG_BLOCK void depthwise_byte_pixels(const OutputRow& row, const uint8_t* words, int64_t x) {
  const StackedTaps& stacked = row.conv.stacked;
  const ConvRow& taps = row.conv.rows[row.to.y];
  const int first = taps.first / kPerWord, end = (taps.first + taps.taps + kPerWord - 1) / kPerWord;
  const uint32_t* w = static_cast<const uint32_t*>(row.block.weights) + first * row.block.row_weights;
  constexpr int64_t kColumn = V * kLanes * 4;
  const int64_t step = stacked.step * kColumn, next = stacked.next * kColumn;
  I sum[P][V] = {};
  for (int word = first; word < end; ++word) {
    const uint8_t* a = words + word * stacked.columns * kColumn + x * step;
    for (int t = 0; t < row.block.items; ++t, a += next, w += V * kLanes) {
      I weight[V];
      BBG_FOR(v, V) weight[v] = load_words(w + v * kLanes);
      BBG_FOR(p, P) {
        const uint32_t* column = reinterpret_cast<const uint32_t*>(a + p * step);
        BBG_FOR(v, V) sum[p][v] = dot(sum[p][v], load_words(column + v * kLanes), weight[v]);
      }
    }
  }
  store_sums<P, V>(row, sum, x);
}

template <int V>
inline void depthwise_byte_row(const OutputRow& row, uint8_t* words) {
  stack_columns<V>(row, words);
  for_pixel_blocks<kMaxPixels, true>(
      row.width, [&](auto pixels, int64_t x) { depthwise_byte_pixels<decltype(pixels)::value, V>(row, words, x); });
}

void depthwise_bytes(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const Conv& conv = *static_cast<const Conv*>(args);
  uint8_t* const words = worker.workspace + (conv.stacked.buffer + worker.member * conv.stacked.bytes);
  depthwise_items(conv, worker, begin, end, [words](const OutputRow& row) {
    row.block.vectors == 2 ? depthwise_byte_row<2>(row, words) : depthwise_byte_row<1>(row, words);
  });
}
