// CountMethod::int8 by tiles: part of bytes.inl, for sets with BBG_HAS_TILES (AMX).
//
// A tile is a register of up to 16 rows of 64 bytes. One instruction multiplies two of them,
//
//   sums [pixel][channel]  +=  activations [pixel][4 bytes of each word]  *  weights [word][channel, 4 bytes]
//        16 x 16 int32              16 x 64 bytes                                 16 x 64 bytes
//
// A window is cut into chunks of Tiles::bytes. Of the activations, a row of a tile is the chunk of one output column;
// the next column's lies Conv::column bytes further. Of the weights, a row is an item (lower/conv_bytes.cpp) of one
// vector of channels. Two tiles of columns times two of channels share what is loaded:
//
//                          weights 6   weights 7
//     activations 4          sums 0      sums 1        the first columns
//     activations 5          sums 2      sums 3        the next ones of this row, or those of the row below
//
// Columns that a last tile shares with the one before are computed twice and stored once: the result may overwrite the
// shortcut (plan/buffers.cpp).

// GCC's intrinsics do not say which memory they read: what was stored before must be there.
BBG_INLINE void settle_memory() { __asm__ volatile("" ::: "memory"); }

// The registers of this thread, from here to the end of the scope; none where there are no tiles.
struct TileRegisters {
  const bool used;

  explicit TileRegisters(const Tiles& tiles) : used(tiles.bytes) {
    if (!used) return;
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } shapes;
    for (int t = 0; t < 8; ++t) {
      shapes.row_bytes[t] = uint16_t(t == 4 || t == 5 ? tiles.bytes : 64);
      shapes.rows[t] = uint8_t(t < 6 ? tiles.columns : tiles.bytes / 4);
    }
    settle_memory();
    _tile_loadconfig(&shapes);
  }
  ~TileRegisters() {
    if (used) _tile_release();
  }
};

// The columns of one output row from x on that are a tile.
struct TileColumns {
  const OutputRow& row;
  int64_t x;

  BBG_INLINE bool has(int ky) const {
    const ConvRow& taps = row.conv.rows[row.to.y];
    return ky >= taps.first && ky < taps.first + taps.taps;
  }
  BBG_INLINE const int32_t* offsets(int ky) const {
    return row.block.offsets + (ky - row.conv.rows[row.to.y].first) * row.block.items;
  }
  BBG_INLINE const uint8_t* at() const { return row.at + x * row.conv.column; }
};

// Adds the chunks of tap row ky to the sums of the first columns, the second ones, or both.
template <int V, bool kFirst, bool kSecond>
BBG_INLINE void add_chunks(const TileColumns& first, const TileColumns& second, int ky) {
  const Conv& conv = first.row.conv;
  const ConvBlock& block = first.row.block;
  const int words = conv.tiles.bytes / 4;
  const uint32_t* weights = static_cast<const uint32_t*>(block.weights) + ky * block.row_weights;
  const int32_t *a = kFirst ? first.offsets(ky) : nullptr, *b = kSecond ? second.offsets(ky) : nullptr;
  for (int j = 0; j < block.items; j += words, weights += words * V * kLanes) {
    _tile_loadd(6, weights, V * kLanes * 4);
    if (V == 2) _tile_loadd(7, weights + kLanes, V * kLanes * 4);
    if (kFirst) {
      _tile_loadd(4, first.at() + a[j], conv.column);
      _tile_dpbusd(0, 4, 6);
      if (V == 2) _tile_dpbusd(1, 4, 7);
    }
    if (kSecond) {
      _tile_loadd(5, second.at() + b[j], conv.column);
      _tile_dpbusd(2, 5, 6);
      if (V == 2) _tile_dpbusd(3, 5, 7);
    }
  }
}

// The sums of both tiles of columns, or of the first alone: [column][channel of the block].
template <int V, bool kTwo>
BBG_BLOCK void tile_sums(const TileColumns& first, const TileColumns& second, int32_t* sums) {
  const Conv& conv = first.row.conv;
  settle_memory();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int ky = 0; ky < conv.tiles.kernel_rows; ++ky) {
    const bool one = first.has(ky), other = kTwo && second.has(ky);
    if (one && other) {
      add_chunks<V, true, true>(first, second, ky);
    } else if (one) {
      add_chunks<V, true, false>(first, second, ky);
    } else if (other) {
      add_chunks<V, false, true>(first, second, ky);
    }
  }
  constexpr int kWidth = V * kLanes;
  _tile_stored(0, sums, kWidth * 4);
  if (V == 2) _tile_stored(1, sums + kLanes, kWidth * 4);
  if (!kTwo) return;
  sums += conv.tiles.columns * kWidth;
  _tile_stored(2, sums, kWidth * 4);
  if (V == 2) _tile_stored(3, sums + kLanes, kWidth * 4);
}

// Stores, or pools, the columns [from, end) of a row, whose sums begin with column `from`.
template <int V, Columns kColumns>
BBG_INLINE void finish_columns(const OutputRow& row, const int32_t* sums, int64_t from, int64_t end, float* before) {
  constexpr bool kAll = kColumns == Columns::all;
  for_pixel_blocks<kMaxPixels, kAll>(end - from, [&](auto pixels, int64_t i) {
    constexpr int P = decltype(pixels)::value;
    I sum[P][V];
    BBG_FOR(p, P) {
      BBG_FOR(v, V) sum[p][v] = load(sums + ((i + p) * V + v) * kLanes);
    }
    if constexpr (kAll) {
      store_sums<P, V>(row, sum, from + i);
    } else {
      pool_sums<kColumns, P, V>(row, sum, from + i, before);
    }
  });
}

// The same row for another block.
BBG_INLINE OutputRow of_block(const OutputRow& row, const ConvBlock& block) {
  const ConvRow& taps = row.conv.rows[row.to.y];
  return {row.conv,
          block,
          row.at,
          static_cast<const uint32_t*>(block.weights) + taps.first * block.row_weights,
          nullptr,
          nullptr,
          taps.taps * block.items,
          row.border,
          row.width,
          row.to};
}

template <int V>
struct TileSums {
  alignas(64) int32_t of[2 * 16 * V * kLanes];
};

// The columns of a row from x on that make two tiles, or what is left of them.
template <int V, Columns kColumns>
BBG_INLINE void tile_columns(const OutputRow& row, int64_t x, int32_t* sums, float* before) {
  const int64_t columns = row.conv.tiles.columns, last = row.width - columns;
  const TileColumns first{row, x < last ? x : last}, second{row, x + columns < last ? x + columns : last};
  const bool two = x + columns < row.width;
  two ? tile_sums<V, true>(first, second, sums) : tile_sums<V, false>(first, second, sums);
  const int64_t end = two ? x + columns : row.width;
  finish_columns<V, kColumns>(row, sums + (x - first.x) * V * kLanes, x, end, before);
  if (!two) return;
  const int64_t skipped = end - second.x, until = end + columns < row.width ? end + columns : row.width;
  finish_columns<V, kColumns>(row, sums + (columns + skipped) * V * kLanes, end, until, before);
}

// All columns of a row.
template <int V, Columns kColumns>
inline void tile_row(const OutputRow& row) {
  float before[V * kLanes];
  if (kColumns != Columns::all) start_pooling<V>(before);
  TileSums<V> sums;
  for (int64_t x = 0; x < row.width; x += 2 * row.conv.tiles.columns)
    tile_columns<V, kColumns>(row, x, sums.of, before);
}

// Rows y and y + 1, each of one tile.
template <int V>
BBG_INLINE void tile_rows(const OutputRow& row, const OutputRow& below, int32_t* sums) {
  tile_sums<V, true>({row, 0}, {below, 0}, sums);
  finish_columns<V, Columns::all>(row, sums, 0, row.width, nullptr);
  finish_columns<V, Columns::all>(below, sums + row.width * V * kLanes, 0, row.width, nullptr);
}

// An item is Tiles::rows output rows of one image, for Tiles::blocks blocks: pairs of tiles for one block after the
// other.
inline void tile_conv(const Conv& conv, const Worker& worker, int64_t images, int64_t begin, int64_t end) {
  const TileRegisters registers(conv.tiles);
  const int64_t rows = conv.tiles.rows, blocks = conv.tiles.blocks;
  const int64_t per_image = (conv.out.height + rows - 1) / rows, per_block = images * per_image;
  TileSums<2> sums;
  for (int64_t item = begin; item < end; ++item) {
    const ConvBlock* const block = conv.blocks + item / per_block * blocks;
    const int64_t n = item % per_block / per_image, y = item % per_image * rows;
    const bool together = rows == 2 && y + 1 < conv.out.height;
    const OutputRow row = output_row(conv, *block, worker, n, y, conv.out.width, nullptr);
    const OutputRow below = together ? output_row(conv, *block, worker, n, y + 1, conv.out.width, nullptr) : row;
    for (int64_t x = 0; x < row.width; x += 2 * conv.tiles.columns) {
      for (int64_t b = 0; b < blocks; ++b) {
        const OutputRow own = of_block(row, block[b]);
        if (together) {
          const OutputRow next = of_block(below, block[b]);
          block[b].vectors == 2 ? tile_rows<2>(own, next, sums.of) : tile_rows<1>(own, next, sums.of);
        } else {
          block[b].vectors == 2 ? tile_columns<2, Columns::all>(own, x, sums.of, nullptr)
                                : tile_columns<1, Columns::all>(own, x, sums.of, nullptr);
        }
      }
    }
  }
}
