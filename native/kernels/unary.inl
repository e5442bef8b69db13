// The scalar functions of the op kind `unary`: part of kernels.inl. One struct per function, with its name in
// docs/format.md and its formula on a vector. To add one: a struct here, and a word in the list at the end.
//
// ---- tanh and erf ----
//
// Both are odd and flat far out: f(x) = x P(x^2) / Q(x^2) up to a limit, beyond which |f| is 1 but for less than 2^-24.
// That form is odd to the bit, and all coefficients are positive, so that nothing cancels. They minimise the largest
// error: the linear problem x P - f(x) Q = 0 at 4000 Chebyshev points of [0, limit], by least squares with weights that
// are divided by Q^2 and multiplied by the error, again and again (Lawson). What is left, 2e-8, lies below the rounding
// of float32, which makes up the error of at most 4e-7.

constexpr float kTanhLimit = 9.0f;
constexpr float kTanhOver[] = {9.999998808e-01f, 1.337319463e-01f, 3.486578353e-03f, 2.047177259e-05f,
                               1.318414622e-08f};
constexpr float kTanhUnder[] = {1.0f, 4.670649171e-01f, 2.584196627e-02f, 3.271379683e-04f, 7.702631137e-07f};

constexpr float kErfLimit = 4.0f;
constexpr float kErfOver[] = {1.128378987e+00f, 1.962492019e-01f, 5.346750841e-02f,
                              4.003656562e-03f, 2.880418615e-04f, 1.974830184e-06f};
constexpr float kErfUnder[] = {
    1.0f, 5.072525144e-01f, 1.164765209e-01f, 1.544444170e-02f, 1.216363045e-03f, 3.748089148e-05f};

template <int N>
BBG_INLINE F polynomial(const float (&coefficient)[N], F t) {
  F sum = splat(coefficient[N - 1]);
  BBG_UNROLL for (int i = N - 2; i >= 0; --i)
    sum = fma(sum, t, splat(coefficient[i]));
  return sum;
}

template <int N>
BBG_INLINE F odd_ratio(F x, float limit, const float (&over)[N], const float (&under)[N]) {
  x = min(max(x, splat(-limit)), splat(limit));
  const F t = mul(x, x);
  const F ratio = div(mul(x, polynomial(over, t)), polynomial(under, t));
  return min(max(ratio, splat(-1)), splat(1));
}

BBG_INLINE F half_plus_half(F x) { return fma(x, splat(0.5f), splat(0.5f)); }

struct Tanh {
  static constexpr const char* name = "tanh";
  static BBG_INLINE F apply(F x) { return odd_ratio(x, kTanhLimit, kTanhOver, kTanhUnder); }
};

struct Sigmoid {  // 1 / (1 + exp(-x)) = 1/2 + 1/2 tanh(x/2)
  static constexpr const char* name = "sigmoid";
  static BBG_INLINE F apply(F x) { return half_plus_half(Tanh::apply(mul(x, splat(0.5f)))); }
};

struct Silu {  // x sigmoid(x)
  static constexpr const char* name = "silu";
  static BBG_INLINE F apply(F x) { return mul(x, Sigmoid::apply(x)); }
};

struct Hardswish {  // x times x/6 + 1/2 clipped to [0, 1]
  static constexpr const char* name = "hardswish";
  static BBG_INLINE F apply(F x) { return mul(x, min(max(fma(x, splat(1.0f / 6), splat(0.5f)), splat(0)), splat(1))); }
};

struct Gelu {  // x times the normal distribution 1/2 + 1/2 erf(x / sqrt 2)
  static constexpr const char* name = "gelu";
  static BBG_INLINE F apply(F x) {
    return mul(x, half_plus_half(odd_ratio(mul(x, splat(0.707106781f)), kErfLimit, kErfOver, kErfUnder)));
  }
};

template <class... Functions>
struct FunctionList {};

using UnaryFunctions = FunctionList<Tanh, Sigmoid, Silu, Hardswish, Gelu>;
