// Bytes that only move, and their maxima (plan/moves.cpp). One item is a row. Part of kernels.inl.

// Row::fill is what an op makes of its operands: bytes from b on, for each of P pixels from x on.
template <int P, class Row>
BBG_BLOCK void move_columns(const Row& row, const Layout& out, int bytes, uint8_t* to, int64_t x) {
  for (int b = 0; b < bytes; b += kMoved) {
    B value[P];
    row.template fill<P>(value, x, b);
    const int left = bytes - b < kMoved ? bytes - b : kMoved;
    BBG_FOR(p, P) store_first(to + (x + p) * out.pixel + b, value[p], left);
  }
}

struct GatherBytesRow {
  const GatherBytes& gather;
  const Worker& worker;
  const int64_t n, y;

  template <int P>
  BBG_INLINE void fill(B (&value)[P], int64_t x, int b) const {
    const int32_t* first = gather.first + b / kMoved;
    BBG_FOR(p, P) value[p] = B{};
    for (int i = first[0]; i < first[1]; ++i) {
      const Piece& piece = gather.pieces[i];
      const Layout& input = gather.inputs[piece.input];
      const uint8_t* from = pixel_of(input, worker, n, y, x) + piece.channel;
      const uint8_t* lanes = gather.lanes + i * kMoved;
      BBG_FOR(p, P) value[p] = take_bytes(value[p], load_moved(from + p * input.pixel), lanes);
    }
  }
};

void gather_bytes(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const GatherBytes& op = *static_cast<const GatherBytes*>(args);
  for (int64_t item = begin; item < end; ++item) {
    const GatherBytesRow row{op, worker, item / op.height, item % op.height};
    clear_margins(op.out, worker, row.n, row.y, op.width);
    uint8_t* to = pixel_of(op.out, worker, row.n, row.y, 0);
    int64_t x = 0;
    for (; x + 4 <= op.width; x += 4) move_columns<4>(row, op.out, op.bytes, to, x);
    for (; x < op.width; ++x) move_columns<1>(row, op.out, op.bytes, to, x);
  }
}

struct PoolBytesRow {
  const Pool& pool;
  const Window& rows;
  const uint8_t* from;

  template <int P>
  BBG_INLINE void fill(B (&value)[P], int64_t x, int b) const {
    static_assert(P == 1, "windows may differ");
    const Window& cols = pool.cols[x];
    const uint8_t* window = from + cols.begin * pool.input.pixel + b;
    value[0] = load_moved(window);
    for (int i = 0; i < rows.count; ++i) {
      for (int j = 0; j < cols.count; ++j) {
        const int64_t tap = i * pool.dilation_y * pool.input.row + j * pool.dilation_x * pool.input.pixel;
        value[0] = max_bytes(value[0], load_moved(window + tap));
      }
    }
  }
};

void pool_bytes(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const Pool& pool = *static_cast<const Pool*>(args);
  const Layout& out = pool.out.bytes;
  const int bytes = (pool.out.channels + kLanes - 1) / kLanes * kLanes * kByteSize;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / pool.out.height, y = item % pool.out.height;
    clear_margins(out, worker, n, y, pool.out.width);
    const PoolBytesRow row{pool, pool.rows[y], pixel_of(pool.input, worker, n, pool.rows[y].begin, 0)};
    uint8_t* to = pixel_of(out, worker, n, y, 0);
    for (int64_t x = 0; x < pool.out.width; ++x) move_columns<1>(row, out, bytes, to, x);
  }
}
