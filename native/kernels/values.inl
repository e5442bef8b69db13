// Numbers as they are, channels averaged, put together or picked, products, curves, layer norms; one item is a row: part of kernels.inl.

inline const float* numbers(const uint8_t* row, int64_t bytes) { return reinterpret_cast<const float*>(row + bytes); }

// What a kind of op does is `fill`: a vector of accumulators from channel c on, of P pixels from x on.
template <int P, class Row>
BBG_BLOCK void value_pixels(const Row& row, const Epilogue& e, const Place& to, int64_t x) {
  for (int c = 0; c < e.channels; c += kLanes) {
    F value[P][1];
    row.template fill<P>(value, x, c);
    finish<P, 1>(e, value, to, x, c, e.bias + c, nullptr);
  }
}

template <class Row, class Args>
inline void value_rows(const Args& k, int64_t begin, int64_t end) {
  const Epilogue& e = k.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    const Place to = place(e, n, y, true);
    const Row row(k, n, y);
    int64_t x = 0;
    for (; x + 4 <= e.width; x += 4) value_pixels<4>(row, e, to, x);
    for (; x < e.width; ++x) value_pixels<1>(row, e, to, x);
  }
}

// ---- pointwise, and match_channels to fewer channels ----------------------------------------------------------------

// The mean of every out-th channel from c on: whole vectors of them, then those channels that have one more.
struct MatchRow {
  const Match& k;
  const uint8_t* in;
  const int outputs, rest;

  inline MatchRow(const Match& match, int64_t n, int64_t y)
      : k(match), in(pixel_of(match.input, n, y, 0)), outputs(match.out.channels), rest(match.channels % outputs) {}

  template <int P>
  BBG_INLINE void fill(F (&v)[P][1], int64_t x, int c) const {
    const float* pixel[P];
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      pixel[p] = numbers(in, (x + p) * k.input.pixel) + c;
      v[p][0] = load(pixel[p]);
    }
    if (k.channels == outputs) return;
    int from = outputs;
    for (; from + outputs <= k.channels; from += outputs) {
      BBG_UNROLL for (int p = 0; p < P; ++p) v[p][0] = add(v[p][0], load(pixel[p] + from));
    }
    if (c < rest) {
      const int more = rest - c < kLanes ? rest - c : kLanes;
      BBG_UNROLL for (int p = 0; p < P; ++p) {
        float lane[kLanes] = {};
        for (int i = 0; i < more; ++i) lane[i] = pixel[p][from + i];
        v[p][0] = add(v[p][0], load(lane));
      }
    }
    const F part = load(k.part + c);
    BBG_UNROLL for (int p = 0; p < P; ++p) v[p][0] = mul(v[p][0], part);
  }
};

void match(const void* args, int64_t, int64_t begin, int64_t end, int64_t) {
  value_rows<MatchRow>(*static_cast<const Match*>(args), begin, end);
}

// ---- concat, select, and match_channels to more channels ------------------------------------------------------------

struct GatherRow {
  const Gather& k;
  const int64_t n, y;

  inline GatherRow(const Gather& gather, int64_t image, int64_t row) : k(gather), n(image), y(row) {}

  inline const float* from(int c, int64_t x) const {
    return numbers(pixel_of(k.inputs[k.input[c]], n, y, x), 0) + k.channel[c];
  }

  inline int64_t pixel(int c) const { return k.inputs[k.input[c]].pixel / int64_t(sizeof(float)); }

  template <int P>
  BBG_INLINE void fill(F (&v)[P][1], int64_t x, int c) const {
    if (k.whole[c / kLanes]) {
      const float* first = from(c, x);
      BBG_UNROLL for (int p = 0; p < P; ++p) v[p][0] = load(first + p * pixel(c));
      return;
    }
    float lane[P][kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const float* first = from(c + i, x);
      const int64_t step = pixel(c + i);
      BBG_UNROLL for (int p = 0; p < P; ++p) lane[p][i] = first[p * step];
    }
    BBG_UNROLL for (int p = 0; p < P; ++p) v[p][0] = load(lane[p]);
  }
};

void gather(const void* args, int64_t, int64_t begin, int64_t end, int64_t) {
  value_rows<GatherRow>(*static_cast<const Gather*>(args), begin, end);
}

// ---- multiply -----------------------------------------------------------------------------------------------------

struct MultiplyRow {
  const uint8_t *main, *factor;
  const int64_t main_pixel, factor_pixel;

  inline MultiplyRow(const Multiply& k, int64_t n, int64_t y)
      : main(pixel_of(k.input, n, y, 0)), factor(pixel_of(k.factor, n, y, 0)), main_pixel(k.input.pixel),
        factor_pixel(k.factor.pixel) {}

  template <int P>
  BBG_INLINE void fill(F (&v)[P][1], int64_t x, int c) const {
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      v[p][0] = mul(load(numbers(main, (x + p) * main_pixel) + c), load(numbers(factor, (x + p) * factor_pixel) + c));
    }
  }
};

void multiply(const void* args, int64_t, int64_t begin, int64_t end, int64_t) {
  value_rows<MultiplyRow>(*static_cast<const Multiply*>(args), begin, end);
}

// ---- tanh, and what is made of it and erf ----------------------------------------------------------------------------
//
// Both are odd and flat far out: f(x) = x P(x^2) / Q(x^2) up to a limit, beyond which |f| is 1 but for less than 2^-24.
// That form is odd to the bit, and all coefficients are positive, so that nothing cancels. They minimise the largest
// error: the linear problem x P - f(x) Q = 0 at 4000 Chebyshev points of [0, limit], by least squares with weights that
// are divided by Q^2 and multiplied by the error, again and again (Lawson). What is left, 2e-8, lies below the rounding
// of float32, which makes up the error of at most 4e-7.

constexpr float kTanhLimit = 9.0f;
constexpr float kTanhOver[] = {9.999998808e-01f, 1.337319463e-01f, 3.486578353e-03f, 2.047177259e-05f, 1.318414622e-08f};
constexpr float kTanhUnder[] = {1.0f, 4.670649171e-01f, 2.584196627e-02f, 3.271379683e-04f, 7.702631137e-07f};

constexpr float kErfLimit = 4.0f;
constexpr float kErfOver[] = {1.128378987e+00f, 1.962492019e-01f, 5.346750841e-02f,
                              4.003656562e-03f, 2.880418615e-04f, 1.974830184e-06f};
constexpr float kErfUnder[] = {1.0f,             5.072525144e-01f, 1.164765209e-01f,
                               1.544444170e-02f, 1.216363045e-03f, 3.748089148e-05f};

template <int N>
BBG_INLINE F polynomial(const float (&coefficient)[N], F t) {
  F sum = splat(coefficient[N - 1]);
  BBG_UNROLL for (int i = N - 2; i >= 0; --i) sum = fma(sum, t, splat(coefficient[i]));
  return sum;
}

template <int N>
BBG_INLINE F odd_ratio(F x, float limit, const float (&over)[N], const float (&under)[N]) {
  x = min(max(x, splat(-limit)), splat(limit));
  const F t = mul(x, x);
  const F ratio = div(mul(x, polynomial(over, t)), polynomial(under, t));
  return min(max(ratio, splat(-1)), splat(1));
}

BBG_INLINE F tanh_of(F x) { return odd_ratio(x, kTanhLimit, kTanhOver, kTanhUnder); }

// 1 / (1 + exp(-x)) = 1/2 + 1/2 tanh(x/2), and x times the normal distribution 1/2 + 1/2 erf(x / sqrt 2).
template <Curve kCurve>
BBG_INLINE F curved(F x) {
  const F half = splat(0.5f);
  if (kCurve == Curve::tanh) return tanh_of(x);
  if (kCurve == Curve::hardswish) return mul(x, min(max(fma(x, splat(1.0f / 6), half), splat(0)), splat(1)));
  const F odd = kCurve == Curve::gelu ? odd_ratio(mul(x, splat(0.707106781f)), kErfLimit, kErfOver, kErfUnder)
                                      : tanh_of(mul(x, half));
  const F share = fma(odd, half, half);
  return kCurve == Curve::sigmoid ? share : mul(x, share);
}

template <Curve kCurve>
struct CurvedRow {
  const uint8_t* in;
  const int64_t pixel;

  inline CurvedRow(const Curved& k, int64_t n, int64_t y) : in(pixel_of(k.input, n, y, 0)), pixel(k.input.pixel) {}

  template <int P>
  BBG_INLINE void fill(F (&v)[P][1], int64_t x, int c) const {
    BBG_UNROLL for (int p = 0; p < P; ++p) v[p][0] = curved<kCurve>(load(numbers(in, (x + p) * pixel) + c));
  }
};

void curve(const void* args, int64_t, int64_t begin, int64_t end, int64_t) {
  const Curved& k = *static_cast<const Curved*>(args);
  switch (k.curve) {
    case Curve::tanh: return value_rows<CurvedRow<Curve::tanh>>(k, begin, end);
    case Curve::sigmoid: return value_rows<CurvedRow<Curve::sigmoid>>(k, begin, end);
    case Curve::silu: return value_rows<CurvedRow<Curve::silu>>(k, begin, end);
    case Curve::hardswish: return value_rows<CurvedRow<Curve::hardswish>>(k, begin, end);
    case Curve::gelu: return value_rows<CurvedRow<Curve::gelu>>(k, begin, end);
  }
}

// ---- layer_norm ---------------------------------------------------------------------------------------------------

inline float sum_of_lanes(F v) {
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// Three passes over the channels of P pixels: their mean m; then d, the mean of x - m, which is what rounding left of it,
// and the mean square q of x - m, so that the variance is q - d^2; then (x - m - d) / sqrt(variance + eps).
template <int P>
BBG_BLOCK void layer_norm_pixels(const LayerNorm& k, const Place& to, const uint8_t* in, int64_t x) {
  const Epilogue& e = k.out;
  const int last = (e.channels - 1) / kLanes * kLanes;
  const F valid = load(k.valid);
  const float* pixel[P];
  F minus_mean[P], rest[P], factor[P];
  BBG_UNROLL for (int p = 0; p < P; ++p) {
    pixel[p] = numbers(in, (x + p) * k.input.pixel);
    minus_mean[p] = choose(valid, load(pixel[p] + last), splat(0));
  }
  for (int c = 0; c < last; c += kLanes) {
    BBG_UNROLL for (int p = 0; p < P; ++p) minus_mean[p] = add(minus_mean[p], load(pixel[p] + c));
  }
  BBG_UNROLL for (int p = 0; p < P; ++p) {
    minus_mean[p] = splat(-sum_of_lanes(minus_mean[p]) * k.part);
    rest[p] = choose(valid, add(load(pixel[p] + last), minus_mean[p]), splat(0));
    factor[p] = mul(rest[p], rest[p]);
  }
  for (int c = 0; c < last; c += kLanes) {
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      const F distance = add(load(pixel[p] + c), minus_mean[p]);
      rest[p] = add(rest[p], distance);
      factor[p] = fma(distance, distance, factor[p]);
    }
  }
  BBG_UNROLL for (int p = 0; p < P; ++p) {
    const float d = sum_of_lanes(rest[p]) * k.part, variance = sum_of_lanes(factor[p]) * k.part - d * d;
    rest[p] = splat(-d);
    factor[p] = splat(1.0f / __builtin_sqrtf((variance > 0 ? variance : 0) + k.eps));
  }
  for (int c = 0; c < e.channels; c += kLanes) {
    F value[P][1];
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      value[p][0] = mul(add(add(load(pixel[p] + c), minus_mean[p]), rest[p]), factor[p]);
    }
    finish<P, 1>(e, value, to, x, c, e.bias + c, nullptr);
  }
}

void layer_norm(const void* args, int64_t, int64_t begin, int64_t end, int64_t) {
  const LayerNorm& k = *static_cast<const LayerNorm*>(args);
  const Epilogue& e = k.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    const Place to = place(e, n, y, true);
    const uint8_t* in = pixel_of(k.input, n, y, 0);
    int64_t x = 0;
    for (; x + 4 <= e.width; x += 4) layer_norm_pixels<4>(k, to, in, x);
    for (; x < e.width; ++x) layer_norm_pixels<1>(k, to, in, x);
  }
}
