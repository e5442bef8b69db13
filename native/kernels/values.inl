// Ops that compute pixel by pixel: pointwise, match_channels, concat, select, multiply, unary, layer_norm. One item is
// a row. Part of kernels.inl. A kind of one operand that computes each pixel from the same pixel needs a kernel here,
// on a PixelOp, and a row of the table at the end.

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
inline void value_rows(const Args& op, const Worker& worker, int64_t begin, int64_t end) {
  const Epilogue& e = op.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    const RowPointers to = row_pointers(e, worker, n, y, true);
    const Row row(op, worker, n, y);
    for_pixel_blocks<kMaxPixels, true>(
        e.width, [&](auto pixels, int64_t x) { value_pixels<decltype(pixels)::value>(row, e, to, x); });
  }
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

// ---- concat, select, and match_channels to more channels ------------------------------------------------------------

struct GatherRow {
  const Gather& gather;
  const Worker& worker;
  const int64_t n, y;

  inline GatherRow(const Gather& args, const Worker& runs, int64_t image, int64_t row)
      : gather(args), worker(runs), n(image), y(row) {}

  template <int P>
  BBG_INLINE void fill(F (&value)[P][1], int64_t x, int c) const {
    const int32_t* first = gather.first + c / kLanes;
    BBG_FOR(p, P) value[p][0] = splat(0);
    for (int i = first[0]; i < first[1]; ++i) {
      const Piece& piece = gather.pieces[i];
      const Layout& input = gather.inputs[piece.input];
      const uint8_t* from = pixel_of(input, worker, n, y, x) + piece.channel * int64_t(sizeof(float));
      const int32_t* lanes = gather.lanes + i * kLanes;
      BBG_FOR(p, P) value[p][0] = take(value[p][0], load(floats_at(from, p * input.pixel)), lanes);
    }
  }
};

void gather(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  value_rows<GatherRow>(*static_cast<const Gather*>(args), worker, begin, end);
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

// ---- the kinds that work on a PixelOp -------------------------------------------------------------------------------

constexpr NamedKernel kPixelKinds[] = {
    {"layer_norm", layer_norm},
};
