// Pools, one item is a row: part of kernels.inl.

// V vectors of channels from c on, over P windows of as many columns each.
template <int P, int V, bool kAverage>
BBG_INLINE void pool_windows(const Pool& pool, const uint8_t* row, const Window& rows, const Window* cols,
                             F (&value)[P][V]) {
  const uint8_t* window[P];
  BBG_FOR(p, P) {
    window[p] = row + cols[p].begin * pool.input.pixel;
    BBG_FOR(v, V) value[p][v] = load(reinterpret_cast<const float*>(window[p]) + v * kLanes);
  }
  int first = 1;  // the tap that is there already
  for (int y = 0; y < rows.count; ++y, first = 0) {
    for (int x = first; x < cols->count; ++x) {
      const int64_t tap = y * pool.dilation_y * pool.input.row + x * pool.dilation_x * pool.input.pixel;
      BBG_FOR(p, P) {
        const float* at = reinterpret_cast<const float*>(window[p] + tap);
        BBG_FOR(v, V) {
          const F next = load(at + v * kLanes);
          value[p][v] = kAverage ? add(value[p][v], next) : max(value[p][v], next);
        }
      }
    }
  }
  if (!kAverage) return;
  BBG_FOR(p, P) {
    const F part = splat(1.0f / (float(rows.extent) * float(cols[p].extent)));
    BBG_FOR(v, V) value[p][v] = mul(value[p][v], part);
  }
}

template <int P, int V>
BBG_BLOCK void pool_channels(const Pool& pool, const RowPointers& to, const uint8_t* row, int64_t x, int c) {
  F value[P][V];
  const uint8_t* from = row + c * int64_t(sizeof(float));
  if (pool.average) {
    pool_windows<P, V, true>(pool, from, pool.rows[to.y], pool.cols + x, value);
  } else {
    pool_windows<P, V, false>(pool, from, pool.rows[to.y], pool.cols + x, value);
  }
  apply_and_store<P, V>(pool.out, value, to, x, c, pool.out.bias + c, nullptr);
}

template <int P>
inline void pool_pixels(const Pool& pool, const RowPointers& to, const uint8_t* row, int64_t x) {
  int c = 0;
  for (; c + kLanes < pool.out.channels; c += 2 * kLanes) pool_channels<P, 2>(pool, to, row, x, c);
  if (c < pool.out.channels) pool_channels<P, 1>(pool, to, row, x, c);
}

inline void pool_row(const Pool& pool, const Worker& worker, int64_t n, int64_t y) {
  const int64_t width = pool.out.width;
  const RowPointers to = row_pointers(pool.out, worker, n, y, true);
  const uint8_t* row = pixel_of(pool.input, worker, n, pool.rows[y].begin, 0);
  for (int64_t x = 0; x < width;) {
    const Window* w = pool.cols + x;
    const bool four =
        x + 4 <= width && w[0].count == w[1].count && w[1].count == w[2].count && w[2].count == w[3].count;
    four ? pool_pixels<4>(pool, to, row, x) : pool_pixels<1>(pool, to, row, x);
    x += four ? 4 : 1;
  }
}

void pool(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const Pool& pool = *static_cast<const Pool*>(args);
  for (int64_t item = begin; item < end; ++item) pool_row(pool, worker, item / pool.out.height, item % pool.out.height);
}

template <Columns kColumns>
inline void conv_row(const OutputRow& row) {
  row.block.vectors == 2 ? byte_row<2, kColumns>(row) : byte_row<1, kColumns>(row);
}

// Slides a buffer of rows down the convolution's result: rows [first, done) of the present image are in it, from its
// beginning. Layouts of the buffer are those of an image whose row 0 lies `first` rows before the buffer. A window may
// begin above the one before it (rows 1, 3 of a map, then 0, 2, where padding cuts a dilated window's first tap off):
// then the buffer starts anew.
void conv_pool(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const ConvPool& fused = *static_cast<const ConvPool*>(args);
  Conv conv = fused.conv;
  Pool pool = fused.pool;
#if BBG_HAS_TILES
  const TileRegisters registers(conv.tiles);
#endif
  const Offset at = fused.buffer + worker.member * fused.bytes;
  uint8_t* buffer = worker.workspace + at;
  const int64_t row_bytes = conv.out.real.row;
  int64_t image = -1, first = 0, done = 0;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / pool.out.height, y = item % pool.out.height;
    const int64_t from = pool.rows[y].begin, to = from + (pool.rows[y].count - 1) * pool.dilation_y + 1;
    if (n != image || from < first || done <= from) image = n, first = done = from;
    if (to - first > fused.rows) {
      __builtin_memmove(buffer, buffer + (from - first) * row_bytes, uint64_t((done - from) * row_bytes));
      first = from;
    }
    conv.out.real.at = pool.input.at = at - first * row_bytes;
    for (; done < to; ++done) {
      const uint8_t* collected = tail_bytes(conv, worker, n, done);
      for (int b = 0; b < conv.block_count; ++b) {
        const OutputRow row = output_row(conv, conv.blocks[b], worker, n, done, conv.out.width, collected);
        switch (fused.columns) {
          case Columns::all: conv_row<Columns::all>(row); break;
          case Columns::padded: conv_row<Columns::padded>(row); break;
          case Columns::inside: conv_row<Columns::inside>(row); break;
        }
      }
    }
    pool_row(pool, worker, n, y);
  }
}

// OR over the window, and AND = not OR of nots where the mask says so.
void pool_bits(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const Pool& pool = *static_cast<const Pool*>(args);
  const Epilogue& e = pool.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    clear_margins(e.bits, worker, n, y, e.width);
    const Window& rows = pool.rows[y];
    for (int64_t x = 0; x < e.width; ++x) {
      const Window& cols = pool.cols[x];
      const uint8_t* from = pixel_of(pool.input, worker, n, rows.begin, cols.begin);
      uint16_t* to = reinterpret_cast<uint16_t*>(pixel_of(e.bits, worker, n, y, x));
      for (int64_t w = 0; w < pool.input.pixel / 2; ++w) {
        uint16_t any = 0;
        for (int i = 0; i < rows.count; ++i) {
          for (int j = 0; j < cols.count; ++j) {
            const uint8_t* at = from + i * pool.dilation_y * pool.input.row + j * pool.dilation_x * pool.input.pixel;
            any = uint16_t(any | (reinterpret_cast<const uint16_t*>(at)[w] ^ pool.and_mask[w]));
          }
        }
        to[w] = uint16_t(any ^ pool.and_mask[w]);
      }
    }
  }
}
