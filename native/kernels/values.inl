// Ops that compute pixel by pixel: pointwise, match_channels, max_channels, concat, select, depth_to_space, bilinear,
// take, multiply, unary, layer_norm, softmax, log_softmax. One item is a row. Part of kernels.inl. A kind of one
// operand that computes each pixel from the same pixel needs a kernel here, on a PixelOp, and a row of the table at the
// end.

inline const float* floats_at(const uint8_t* row, int64_t bytes) { return reinterpret_cast<const float*>(row + bytes); }

// Row::fill is what an op computes: a vector of accumulators from channel c on, for each of P pixels from x on.
template <int P, class Row>
BBG_BLOCK void value_pixels(const Row& row, const Epilogue& e, const RowPointers& to, int64_t x) {
  for (int c = 0; c < e.channels; c += kLanes) {
    F value[P][1];
    row.template fill<P>(value, x, c);
    apply_and_store<P, 1>(e, value, to, x, c, e.bias + c, nullptr);
  }
}

template <class Row, class Args>
inline void value_rows(const Args& op, const Epilogue& e, const Worker& worker, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    const RowPointers to = row_pointers(e, worker, n, y, true);
    const Row row(op, worker, n, y);
    for_pixel_blocks<kMaxPixels, true>(
        e.width, [&](auto pixels, int64_t x) { value_pixels<decltype(pixels)::value>(row, e, to, x); });
  }
}

template <class Row, class Args>
inline void value_rows(const Args& op, const Worker& worker, int64_t begin, int64_t end) {
  value_rows<Row>(op, op.out, worker, begin, end);
}

// ---- pointwise, and match_channels to fewer channels ----------------------------------------------------------------

struct MatchRow {
  const Match& match;
  const uint8_t* in;

  inline MatchRow(const Match& args, const Worker& worker, int64_t n, int64_t y)
      : match(args), in(pixel_of(args.input, worker, n, y, 0)) {}

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    const int64_t step = match.input.pixel;
    F mean[P];
    mean_of_channels<P>(mean, in + x * step, step, match.channels, match.out.channels, c, match.part);
    BBG_FOR(p, P) value[p][0] = mean[p];
  }
};

void match(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  value_rows<MatchRow>(*static_cast<const Match*>(args), worker, begin, end);
}

// ---- max_channels ---------------------------------------------------------------------------------------------------

struct MaxRow {
  const Match& match;
  const uint8_t* in;

  inline MaxRow(const Match& args, const Worker& worker, int64_t n, int64_t y)
      : match(args), in(pixel_of(args.input, worker, n, y, 0)) {}

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    const int64_t step = match.input.pixel;
    max_of_channels<P>(value, in + x * step, step, match.channels, match.out.channels, c);
  }
};

void max_channels(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  value_rows<MaxRow>(*static_cast<const Match*>(args), worker, begin, end);
}

// ---- concat, select, and match_channels to more channels ------------------------------------------------------------

struct GatherRow {
  const Gather& gather;
  const Worker& worker;
  const int64_t n, y;

  inline GatherRow(const Gather& args, const Worker& runs, int64_t image, int64_t row)
      : gather(args), worker(runs), n(image), y(row) {}

  // The pieces of vector number `vector`.
  template <int P>
  BBG_INLINE void take_pieces(F (&value)[P][1], int64_t x, int vector) const {
    const int32_t* first = gather.first + vector;
    BBG_FOR(p, P) value[p][0] = splat(0);
    for (int i = first[0]; i < first[1]; ++i) {
      const Piece& piece = gather.pieces[i];
      const Layout& input = gather.inputs[piece.input];
      const uint8_t* from = pixel_of(input, worker, n, y, x) + piece.channel * int64_t(sizeof(float));
      const int32_t* lanes = gather.lanes + i * kLanes;
      BBG_FOR(p, P) value[p][0] = take(value[p][0], load(floats_at(from, p * input.pixel)), lanes);
    }
  }

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    take_pieces<P>(value, x, c / kLanes);
  }
};

void gather(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  value_rows<GatherRow>(*static_cast<const Gather*>(args), worker, begin, end);
}

// ---- depth_to_space -------------------------------------------------------------------------------------------------

// Number (y, x) of the result lies in phase (y mod stride_y, x mod stride_x).
struct DepthToSpaceRow {
  const DepthToSpace& op;
  const GatherRow from;
  const int64_t phase;  // of the row's first pixel

  inline DepthToSpaceRow(const DepthToSpace& args, const Worker& worker, int64_t n, int64_t y)
      : op(args), from(args.gather, worker, n, y / args.stride_y), phase(y % args.stride_y * args.stride_x) {}

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    for (int p = 0; p < P; ++p) {
      const int64_t column = (x + p) / op.stride_x, own = phase + (x + p) % op.stride_x;
      F one[1][1];
      from.take_pieces<1>(one, column, int(own) * op.vectors + c / kLanes);
      value[p][0] = one[0][0];
    }
  }
};

void depth_to_space(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const DepthToSpace& op = *static_cast<const DepthToSpace*>(args);
  value_rows<DepthToSpaceRow>(op, op.gather.out, worker, begin, end);
}

// ---- bilinear -------------------------------------------------------------------------------------------------------

struct BilinearRow {
  const Bilinear& op;
  const uint8_t *above, *below;
  const F from_above, from_below;  // the shares of the two rows

  inline BilinearRow(const Bilinear& args, const Worker& worker, int64_t n, int64_t y)
      : op(args),
        above(pixel_of(args.input, worker, n, args.rows[y].first, 0)),
        below(above + args.rows[y].step * args.input.row),
        from_above(splat(1 - args.rows[y].share)),
        from_below(splat(args.rows[y].share)) {}

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    BBG_FOR(p, P) {
      const Between& col = op.cols[x + p];
      const int64_t left = col.first * op.input.pixel, right = left + col.step * op.input.pixel;
      const F from_left = splat(1 - col.share), from_right = splat(col.share);
      const auto between = [&](const uint8_t* row) {
        return fma(load(floats_at(row, right) + c), from_right, mul(load(floats_at(row, left) + c), from_left));
      };
      value[p][0] = fma(between(below), from_below, mul(between(above), from_above));
    }
  }
};

void bilinear(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  value_rows<BilinearRow>(*static_cast<const Bilinear*>(args), worker, begin, end);
}

// ---- take -----------------------------------------------------------------------------------------------------------

struct TakeRow {
  const Take& op;
  const uint8_t* in;

  inline TakeRow(const Take& args, const Worker& worker, int64_t n, int64_t y)
      : op(args), in(pixel_of(args.input, worker, n, args.rows[y], 0)) {}

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    BBG_FOR(p, P) value[p][0] = load(floats_at(in, op.cols[x + p] * op.input.pixel) + c);
  }
};

void take(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  value_rows<TakeRow>(*static_cast<const Take*>(args), worker, begin, end);
}

// ---- multiply -----------------------------------------------------------------------------------------------------

struct MultiplyRow {
  const uint8_t *main, *factor;
  const int64_t main_pixel, factor_pixel;

  inline MultiplyRow(const Multiply& multiply, const Worker& worker, int64_t n, int64_t y)
      : main(pixel_of(multiply.input, worker, n, y, 0)),
        factor(pixel_of(multiply.factor, worker, n, y, 0)),
        main_pixel(multiply.input.pixel),
        factor_pixel(multiply.factor.pixel) {}

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    BBG_FOR(p, P) {
      value[p][0] =
          mul(load(floats_at(main, (x + p) * main_pixel) + c), load(floats_at(factor, (x + p) * factor_pixel) + c));
    }
  }
};

void multiply(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  value_rows<MultiplyRow>(*static_cast<const Multiply*>(args), worker, begin, end);
}

// ---- unary ----------------------------------------------------------------------------------------------------------

template <class Function>
struct UnaryRow {
  const uint8_t* in;
  const int64_t pixel;

  inline UnaryRow(const Unary& unary, const Worker& worker, int64_t n, int64_t y)
      : in(pixel_of(unary.input, worker, n, y, 0)), pixel(unary.input.pixel) {}

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    BBG_FOR(p, P) value[p][0] = Function::apply(load(floats_at(in, (x + p) * pixel) + c));
  }
};

template <class Function>
void unary(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  value_rows<UnaryRow<Function>>(*static_cast<const Unary*>(args), worker, begin, end);
}

template <class Function>
void apply_to_vectors(float* numbers, int vectors) {
  for (int i = 0; i < vectors; ++i) store(numbers + i * kLanes, Function::apply(load(numbers + i * kLanes)));
}

template <class List>
struct UnaryTable;

template <class... Functions>
struct UnaryTable<FunctionList<Functions...>> {
  static constexpr NamedFunction rows[] = {{Functions::name, unary<Functions>, apply_to_vectors<Functions>}...};
};

// ---- layer_norm ---------------------------------------------------------------------------------------------------

inline float sum_of_lanes(F v) {
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// Three passes over the channels of P pixels: their mean m; then d, the mean of x - m, which is what rounding left of
// it, and the mean square q of x - m, so that the variance is q - d^2; then (x - m - d) / sqrt(variance + eps).
template <int P>
BBG_BLOCK void layer_norm_pixels(const PixelOp& norm, const RowPointers& to, const uint8_t* in, int64_t x) {
  const Epilogue& e = norm.out;
  const int last = (e.channels - 1) / kLanes * kLanes;
  const F valid = load(norm.valid);
  const float* pixel[P];
  F minus_mean[P], rest[P], factor[P];
  BBG_FOR(p, P) {
    pixel[p] = floats_at(in, (x + p) * norm.input.pixel);
    minus_mean[p] = select_by_sign(valid, load(pixel[p] + last), splat(0));
  }
  for (int c = 0; c < last; c += kLanes) {
    BBG_FOR(p, P) minus_mean[p] = add(minus_mean[p], load(pixel[p] + c));
  }
  BBG_FOR(p, P) {
    minus_mean[p] = splat(-sum_of_lanes(minus_mean[p]) * norm.part);
    rest[p] = select_by_sign(valid, add(load(pixel[p] + last), minus_mean[p]), splat(0));
    factor[p] = mul(rest[p], rest[p]);
  }
  for (int c = 0; c < last; c += kLanes) {
    BBG_FOR(p, P) {
      const F distance = add(load(pixel[p] + c), minus_mean[p]);
      rest[p] = add(rest[p], distance);
      factor[p] = fma(distance, distance, factor[p]);
    }
  }
  BBG_FOR(p, P) {
    const float d = sum_of_lanes(rest[p]) * norm.part, variance = sum_of_lanes(factor[p]) * norm.part - d * d;
    rest[p] = splat(-d);
    factor[p] = splat(1.0f / __builtin_sqrtf((variance > 0 ? variance : 0) + norm.attributes.eps));
  }
  for (int c = 0; c < e.channels; c += kLanes) {
    F value[P][1];
    BBG_FOR(p, P) {
      value[p][0] = mul(add(add(load(pixel[p] + c), minus_mean[p]), rest[p]), factor[p]);
    }
    apply_and_store<P, 1>(e, value, to, x, c, e.bias + c, nullptr);
  }
}

void layer_norm(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const PixelOp& norm = *static_cast<const PixelOp*>(args);
  const Epilogue& e = norm.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    const RowPointers to = row_pointers(e, worker, n, y, true);
    const uint8_t* in = pixel_of(norm.input, worker, n, y, 0);
    int64_t x = 0;
    for (; x + 4 <= e.width; x += 4) layer_norm_pixels<4>(norm, to, in, x);
    for (; x < e.width; ++x) layer_norm_pixels<1>(norm, to, in, x);
  }
}

// ---- softmax, log_softmax -------------------------------------------------------------------------------------------

inline float max_of_lanes(F v) {
  float lane[kLanes];
  store(lane, v);
  for (int i = 1; i < kLanes; ++i) lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
  return lane[0];
}

// Three passes over the channels of a pixel: their maximum m; s, the sum of exp(x - m), which is at least 1; then
// exp(x - m) / s, or x - m - log s.
template <bool kLog>
BBG_BLOCK void softmax_pixel(const PixelOp& op, const RowPointers& to, const uint8_t* in, int64_t x) {
  const Epilogue& e = op.out;
  const int last = (e.channels - 1) / kLanes * kLanes;
  const F valid = load(op.valid), none = splat(-3.4028234e38f);
  const float* pixel = floats_at(in, x * op.input.pixel);
  F most = select_by_sign(valid, load(pixel + last), none);
  for (int c = 0; c < last; c += kLanes) most = max(most, load(pixel + c));
  const F minus_most = splat(-max_of_lanes(most));
  const auto share = [&](int c) { return exp_of_negative(add(load(pixel + c), minus_most)); };
  F shares = select_by_sign(valid, share(last), splat(0));
  for (int c = 0; c < last; c += kLanes) shares = add(shares, share(c));
  const float sum = sum_of_lanes(shares);
  const F part = splat(1 / sum), rest = splat(kLog ? -__builtin_logf(sum) : 0);
  for (int c = 0; c < e.channels; c += kLanes) {
    F value[1][1] = {{kLog ? add(add(load(pixel + c), minus_most), rest) : mul(share(c), part)}};
    apply_and_store<1, 1>(e, value, to, x, c, e.bias + c, nullptr);
  }
}

template <bool kLog>
void softmax_rows(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const PixelOp& op = *static_cast<const PixelOp*>(args);
  const Epilogue& e = op.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    const RowPointers to = row_pointers(e, worker, n, y, true);
    const uint8_t* in = pixel_of(op.input, worker, n, y, 0);
    for (int64_t x = 0; x < e.width; ++x) softmax_pixel<kLog>(op, to, in, x);
  }
}

// ---- the kinds that work on a PixelOp -------------------------------------------------------------------------------

constexpr NamedKernel kPixelKinds[] = {
    {"layer_norm", layer_norm},
    {"softmax", softmax_rows<false>},
    {"log_softmax", softmax_rows<true>},
};
