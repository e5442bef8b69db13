// The vocabulary in plain C++: eight lanes, for machines without a set of their own and as the measure of the others.

constexpr int kLanes = 8;
constexpr int kMaxPixels = 4;
constexpr int kBytePixels = kMaxPixels;

struct F {
  float lane[kLanes];
};
struct I {
  int32_t lane[kLanes];
};

#define BBG_LANES BBG_FOR(i, kLanes)

// clang-format off

inline F load(const float* p) { F r; BBG_LANES r.lane[i] = p[i]; return r; }
// The first n lanes; 0 in the others, of which nothing is read.
inline F load_first(const float* p, int n) {
  float lane[kLanes] = {};
  for (int i = 0; i < n; ++i) lane[i] = p[i];
  return load(lane);
}
inline void store(float* p, F v) { BBG_LANES p[i] = v.lane[i]; }
inline F take(F kept, F from, const int32_t* lane) {
  BBG_LANES kept.lane[i] = lane[i] < 0 ? kept.lane[i] : from.lane[lane[i]];
  return kept;
}
inline F splat(float x) { F r; BBG_LANES r.lane[i] = x; return r; }
inline F add(F a, F b) { BBG_LANES a.lane[i] += b.lane[i]; return a; }
inline F mul(F a, F b) { BBG_LANES a.lane[i] *= b.lane[i]; return a; }
inline F sqrt(F a) { BBG_LANES a.lane[i] = __builtin_sqrtf(a.lane[i]); return a; }
inline F div(F a, F b) { BBG_LANES a.lane[i] /= b.lane[i]; return a; }
inline F fma(F a, F b, F c) { BBG_LANES c.lane[i] += a.lane[i] * b.lane[i]; return c; }
inline F max(F a, F b) { BBG_LANES a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; return a; }
inline F min(F a, F b) { BBG_LANES a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; return a; }
inline F select_by_sign(F v, F above, F below) {
  BBG_LANES v.lane[i] = v.lane[i] >= 0 ? above.lane[i] : below.lane[i];
  return v;
}
// The nine low bits of each lane as the sign and the exponent of a power of two.
inline F as_exponent(F v) {
  BBG_LANES {
    uint32_t bits;
    __builtin_memcpy(&bits, &v.lane[i], sizeof bits);
    bits <<= 23;
    __builtin_memcpy(&v.lane[i], &bits, sizeof bits);
  }
  return v;
}
inline F split_power(F x, F& fraction) {
  F n;
  BBG_LANES {
    uint32_t bits;
    __builtin_memcpy(&bits, &x.lane[i], sizeof bits);
    const int32_t above = int32_t(bits - uint32_t(kBitsOfRootHalf)), power = above >> 23;
    bits -= uint32_t(power) << 23;
    __builtin_memcpy(&fraction.lane[i], &bits, sizeof bits);
    n.lane[i] = float(power);
  }
  return n;
}
inline F to_float(I a) { F r; BBG_LANES r.lane[i] = float(a.lane[i]); return r; }

inline uint32_t ge_mask(F a, F b) { uint32_t r = 0; BBG_LANES r |= uint32_t(a.lane[i] >= b.lane[i]) << i; return r; }
inline uint32_t ge_mask(I a, I b) { uint32_t r = 0; BBG_LANES r |= uint32_t(a.lane[i] >= b.lane[i]) << i; return r; }

inline I load(const int32_t* p) { I r; BBG_LANES r.lane[i] = p[i]; return r; }
inline I minus_twice(I base, I count) { BBG_LANES base.lane[i] -= 2 * count.lane[i]; return base; }
// clang-format on
#undef BBG_LANES

// Numbers of at most 255, rounded to the nearest, halves to even: so rounds the addition. Negative ones become 0. They
// take two bytes each.
constexpr int kByteSize = 2;
inline void store_bytes(uint8_t* p, F v) {
  constexpr float kUnitSpaced = 12582912.0f;  // 1.5 * 2^23: the floats around it are the integers
  uint16_t bytes[kLanes];
  BBG_FOR(i, kLanes) bytes[i] = uint16_t(v.lane[i] > 0 ? (v.lane[i] + kUnitSpaced) - kUnitSpaced : 0);
  __builtin_memcpy(p, bytes, sizeof bytes);
}

inline F bytes_as_floats(const uint8_t* p) {
  uint16_t bytes[kLanes];
  __builtin_memcpy(bytes, p, sizeof bytes);
  F r;
  BBG_FOR(i, kLanes) r.lane[i] = bytes[i];
  return r;
}

constexpr int kMoved = 16;  // those of a vector of numbers
struct B {
  uint8_t byte[kMoved];
};
inline B load_moved(const uint8_t* p) {
  B r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}
inline void store_first(uint8_t* p, B v, int) { __builtin_memcpy(p, &v, sizeof v); }
inline B max_bytes(B a, B b) {
  BBG_FOR(i, kMoved) a.byte[i] = a.byte[i] > b.byte[i] ? a.byte[i] : b.byte[i];
  return a;
}
inline B take_bytes(B kept, B from, const uint8_t* byte) {
  BBG_FOR(i, kMoved) kept.byte[i] = byte[i] == kNoByte ? kept.byte[i] : from.byte[byte[i]];
  return kept;
}

inline I load_words(const uint32_t* p) {
  I r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}
inline I splat_word(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  I r;
  BBG_FOR(i, kLanes) r.lane[i] = word;
  return r;
}
// Words of one number of each of `rows` tap rows, one or two, for the V vectors of channels of as many columns, which
// are `pixel` bytes apart. The number of the first row, at `first`, goes to place `position` of its word.
template <int V>
inline void stack_taps(uint8_t* to, const uint8_t* first, int64_t pixel, int64_t columns, int64_t below, int rows,
                       int position) {
  for (int64_t x = 0; x < columns; ++x, first += pixel) {
    uint16_t words[V * kLanes][2] = {};
    for (int r = 0; r < rows; ++r) {
      uint16_t row[V * kLanes];
      __builtin_memcpy(row, first + r * below, sizeof row);
      BBG_FOR(i, V * kLanes) words[i][position + r] = row[i];
    }
    __builtin_memcpy(to, words, sizeof words);
    to += sizeof words;
  }
}

inline I dot(I sum, I bytes, I weights) {
  BBG_FOR(i, kLanes)
    sum.lane[i] += int16_t(bytes.lane[i]) * int16_t(weights.lane[i]) + (bytes.lane[i] >> 16) * (weights.lane[i] >> 16);
  return sum;
}

inline int32_t ones(uint32_t x) {
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  return int32_t(((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
}

// Bits that differ between the words of P pixels and the weights of V vectors.
template <int P, int V, CountMethod kMethod>
struct Counter {
  I count[P][V] = {};

  Counter(const int32_t*, const int32_t*) {}

  void run(const Conv& conv, const uint8_t* at, const int32_t* offsets, const uint32_t* w, const uint32_t* m,
           int items) {
    if (kMethod != CountMethod::masked) m = w;
    for (int j = 0; j < items; ++j, w += V * kLanes, m += V * kLanes) {
      for (int p = 0; p < P; ++p) {
        uint32_t word;
        __builtin_memcpy(&word, at + offsets[j] + p * conv.column, sizeof word);
        for (int v = 0; v < V; ++v) {
          BBG_FOR(i, kLanes) {
            const uint32_t differ = word ^ w[v * kLanes + i];
            count[p][v].lane[i] += ones(kMethod == CountMethod::masked ? differ & m[v * kLanes + i] : differ);
          }
        }
      }
    }
  }

  I result(int p, int v, const int32_t* base) const { return minus_twice(load(base), count[p][v]); }
};
