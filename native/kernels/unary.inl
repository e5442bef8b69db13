// The scalar functions of the op kind `unary`: part of kernels.inl. One struct per function, with its name in
// docs/format.md and its formula on a vector. To add one: a struct here, and a word in the list at the end.
//
// ---- tanh and erf ----
//
// Both are odd and flat far out: f(x) = x P(x^2) / Q(x^2) up to a limit, beyond which |f| is 1 but for less than 2^-24.
// That form is odd to the bit, and all coefficients are positive, so that nothing cancels. They minimise the largest
// error: the linear problem x P - f(x) Q = 0 at 4000 Chebyshev points of [0, limit], by least squares with weights that
// are divided by Q^2 and multiplied by the error, again and again (Lawson). What is left, 2e-8, lies below the rounding
// of float32, which makes up the error of at most 4e-7. From the limit on the result is 1 or -1 exactly: what is
// multiplied by 1 + f(x), as in gelu, is 0 there.

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
  const F inside = min(max(ratio, splat(-1)), splat(1));
  return select_by_sign(add(t, splat(-limit * limit)), select_by_sign(x, splat(1), splat(-1)), inside);
}

BBG_INLINE F half_plus_half(F x) { return fma(x, splat(0.5f), splat(0.5f)); }

struct Tanh {
  static constexpr const char* name = "tanh";
  static BBG_INLINE F apply(F x) { return odd_ratio(x, kTanhLimit, kTanhOver, kTanhUnder); }
};

// ---- the exponential function ----
//
// For x <= 0: x = n ln 2 + r with the integer n next to x / ln 2, and exp(x) = 2^n exp(r). ln 2 is taken off in two
// parts, of which the first has few bits, so that n times it is exact. exp(r) is a polynomial for |r| <= ln(2) / 2,
// made like those above; its relative error is 2e-9. To add 1.5 * 2^23 rounds to an integer, which then is the low bits
// of the sum; with 127 more it is the exponent of 2^n.
//
// So the result has a relative error of at most 2e-7, and sigmoid does, which is computed of it for -|x|: no difference
// of nearly equal numbers is taken. Below -87.7 it is 0: the exponent would be -127.

constexpr float kExp[] = {1.000000001e+00f, 1.000000036e+00f, 4.999999208e-01f, 1.666642007e-01f,
                          4.166822620e-02f, 8.374824055e-03f, 1.383683524e-03f};

BBG_INLINE F exp_of_negative(F x) {
  constexpr float kLeast = -88, kUnitSpaced = 12582912.0f + 127, kOverLn2 = 1.44269504f;
  constexpr float kLn2 = 0.693359375f, kLn2Rest = -2.12194440e-4f;
  x = max(x, splat(kLeast));
  const F biased = fma(x, splat(kOverLn2), splat(kUnitSpaced)), n = add(biased, splat(-kUnitSpaced));
  const F r = fma(n, splat(-kLn2Rest), fma(n, splat(-kLn2), x));
  return mul(as_exponent(biased), polynomial(kExp, r));
}

struct Sigmoid {  // 1 / (1 + exp(-x)), or exp(x) / (1 + exp(x)), whose exponent is negative
  static constexpr const char* name = "sigmoid";
  static BBG_INLINE F apply(F x) {
    const F e = exp_of_negative(min(x, mul(x, splat(-1))));
    return div(select_by_sign(x, splat(1), e), add(e, splat(1)));
  }
};

struct Exp {  // exp(x), of 88 where x is larger
  static constexpr const char* name = "exp";
  static BBG_INLINE F apply(F x) { return exp_of_negative(min(x, splat(88))); }
};

struct Elu {  // x, or exp(x) - 1 = 2 t / (1 - t) with t = tanh(x / 2), in which nothing cancels
  static constexpr const char* name = "elu";
  static BBG_INLINE F apply(F x) {
    const F t = Tanh::apply(mul(min(x, splat(0)), splat(0.5f)));
    return select_by_sign(x, x, div(add(t, t), fma(t, splat(-1), splat(1))));
  }
};

// x tanh(log(1 + exp(x))). With e = exp(-|x|) it is x (1 + 2e) / (1 + 2e + 2e^2) for x >= 0, else
// x (e^2 + 2e) / (e^2 + 2e + 2).
struct Mish {
  static constexpr const char* name = "mish";
  static BBG_INLINE F apply(F x) {
    const F e = exp_of_negative(min(x, mul(x, splat(-1))));
    const F rising = fma(e, splat(2), splat(1)), falling = fma(e, e, add(e, e));
    const F rest = select_by_sign(x, mul(add(e, e), e), splat(2)), share = select_by_sign(x, rising, falling);
    return mul(x, div(share, add(share, rest)));
  }
};

// The smallest normal number stands for what is smaller: so no result is infinite.
constexpr float kSmallest = 1.17549435e-38f;

struct Reciprocal {  // 1 / x
  static constexpr const char* name = "reciprocal";
  static BBG_INLINE F apply(F x) {
    const F far = select_by_sign(x, max(x, splat(kSmallest)), min(x, splat(-kSmallest)));
    return div(splat(1), far);
  }
};

struct Sqrt {  // of 0 where x is negative
  static constexpr const char* name = "sqrt";
  static BBG_INLINE F apply(F x) { return sqrt(max(x, splat(0))); }
};

struct Rsqrt {  // 1 / sqrt(x)
  static constexpr const char* name = "rsqrt";
  static BBG_INLINE F apply(F x) { return div(splat(1), sqrt(max(x, splat(kSmallest)))); }
};

// ---- the logarithm ----
//
// x = 2^n f with f from sqrt(1/2) to sqrt(2), and log(x) = n ln 2 + log(f). With t = f - 1, which is exact,
// log(f) = t - t^2 / 2 + t^3 P(t), so that near 1 the error is small beside the result, too. P is made like those
// above, by the relative error of log(f), of which 6e-9 is left. ln 2 is added in two parts, as for exp: n times the
// first is exact. So the result has a relative error of at most 2e-7, and so do log1p and softplus.

constexpr float kLog[] = {3.333333171e-01f, -2.500082104e-01f, 2.000122687e-01f, -1.662335724e-01f,
                          1.420175803e-01f, -1.316018346e-01f, 1.276157739e-01f, -7.634494182e-02f};

// log(x) + rest for normal x > 0, with a rest that is small beside the result.
BBG_INLINE F log_of_normal(F x, F rest) {
  constexpr float kLn2 = 0.693359375f, kLn2Rest = -2.12194440e-4f;
  F fraction;
  const F n = split_power(x, fraction), t = add(fraction, splat(-1)), square = mul(t, t);
  F sum = fma(mul(square, t), polynomial(kLog, t), fma(n, splat(kLn2Rest), rest));
  sum = add(fma(square, splat(-0.5f), sum), t);
  return fma(n, splat(kLn2), sum);
}

// log(1 + x) for x > -1: what u = 1 + x has lost by rounding, x - (u - 1), is exact; over u it is the rest.
BBG_INLINE F log_of_one_plus(F x) {
  const F u = add(x, splat(1)), lost = fma(add(u, splat(-1)), splat(-1), x);
  return log_of_normal(u, div(lost, u));
}

// What a logarithm is of `x`, given its value inside: -inf of 0, no number of what is negative, inf of inf.
BBG_INLINE F with_ends(F x, F inside) {
  constexpr float kInfinite = __builtin_huge_valf();
  const F beyond = fma(x, splat(0.5f), splat(-2e38f));  // negative for all numbers
  const F open = select_by_sign(beyond, splat(kInfinite), inside);
  const F least = select_by_sign(mul(x, splat(-1)), splat(-kInfinite), open);
  return select_by_sign(x, least, splat(__builtin_nanf("")));
}

struct Log {  // of 2^25 x, less 25 ln 2, where x is below the normal numbers
  static constexpr const char* name = "log";
  static BBG_INLINE F apply(F x) {
    const F normal = add(x, splat(-kSmallest)), far = select_by_sign(normal, x, mul(x, splat(33554432)));
    return with_ends(x, log_of_normal(far, select_by_sign(normal, splat(0), splat(-17.3286795f))));
  }
};

struct Log1p {  // log(1 + x)
  static constexpr const char* name = "log1p";
  static BBG_INLINE F apply(F x) { return with_ends(add(x, splat(1)), log_of_one_plus(x)); }
};

struct Softplus {  // log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), two numbers that are not negative
  static constexpr const char* name = "softplus";
  static BBG_INLINE F apply(F x) {
    const F e = exp_of_negative(min(x, mul(x, splat(-1))));
    return add(max(x, splat(0)), log_of_one_plus(e));
  }
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

using UnaryFunctions =
    FunctionList<Tanh, Sigmoid, Silu, Hardswish, Gelu, Elu, Mish, Exp, Reciprocal, Sqrt, Rsqrt, Log, Log1p, Softplus>;
