// The vocabulary in NEON (every aarch64): eight lanes, in two registers.

constexpr int kLanes = 8;
constexpr int kMaxPixels = 4;
constexpr int kBytePixels = kMaxPixels;

struct F {
  float32x4_t a, b;
};
struct I {
  int32x4_t a, b;
};

inline F load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
// The first n lanes; 0 in the others, of which nothing is read.
inline F load_first(const float* p, int n) {
  float lane[kLanes] = {};
  for (int i = 0; i < n; ++i) lane[i] = p[i];
  return load(lane);
}
inline void store(float* p, F v) { vst1q_f32(p, v.a), vst1q_f32(p + 4, v.b); }
// Bytes of the table `from` by their numbers; one of -1 has numbers behind the table's end, which change nothing.
inline float32x4_t take(float32x4_t kept, uint8x16x2_t from, const int32_t* lane) {
  const uint32x4_t first = vmulq_u32(vreinterpretq_u32_s32(vld1q_s32(lane)), vdupq_n_u32(0x04040404));
  const uint8x16_t byte = vreinterpretq_u8_u32(vaddq_u32(first, vdupq_n_u32(0x03020100)));
  return vreinterpretq_f32_u8(vqtbx2q_u8(vreinterpretq_u8_f32(kept), from, byte));
}
inline F take(F kept, F from, const int32_t* lane) {
  const uint8x16x2_t table = {{vreinterpretq_u8_f32(from.a), vreinterpretq_u8_f32(from.b)}};
  return {take(kept.a, table, lane), take(kept.b, table, lane + 4)};
}
inline F splat(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline F add(F x, F y) { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
inline F mul(F x, F y) { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
inline F sqrt(F x) { return {vsqrtq_f32(x.a), vsqrtq_f32(x.b)}; }
inline F div(F x, F y) { return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)}; }
inline F max(F x, F y) { return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b)}; }
inline F min(F x, F y) { return {vminq_f32(x.a, y.a), vminq_f32(x.b, y.b)}; }
inline F to_float(I x) { return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b)}; }
inline F select_by_sign(F v, F above, F below) {
  return {vbslq_f32(vcgezq_f32(v.a), above.a, below.a), vbslq_f32(vcgezq_f32(v.b), above.b, below.b)};
}

inline float32x4_t as_exponent(float32x4_t v) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(v), 23));
}
inline F as_exponent(F v) { return {as_exponent(v.a), as_exponent(v.b)}; }

inline float32x4_t split_power(float32x4_t x, float32x4_t& fraction) {
  const int32x4_t bits = vreinterpretq_s32_f32(x);
  const int32x4_t n = vshrq_n_s32(vsubq_s32(bits, vdupq_n_s32(kBitsOfRootHalf)), 23);
  fraction = vreinterpretq_f32_s32(vsubq_s32(bits, vshlq_n_s32(n, 23)));
  return vcvtq_f32_s32(n);
}
inline F split_power(F x, F& fraction) { return {split_power(x.a, fraction.a), split_power(x.b, fraction.b)}; }

inline uint32_t bits_of(uint32x4_t a, uint32x4_t b) {
  const uint32_t low[4] = {1, 2, 4, 8}, high[4] = {16, 32, 64, 128};
  return vaddvq_u32(vorrq_u32(vandq_u32(a, vld1q_u32(low)), vandq_u32(b, vld1q_u32(high))));
}
inline uint32_t ge_mask(F x, F y) { return bits_of(vcgeq_f32(x.a, y.a), vcgeq_f32(x.b, y.b)); }
inline uint32_t ge_mask(I x, I y) { return bits_of(vcgeq_s32(x.a, y.a), vcgeq_s32(x.b, y.b)); }

inline I load(const int32_t* p) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
inline I minus_twice(I base, I count) {
  return {vsubq_s32(base.a, vshlq_n_s32(count.a, 1)), vsubq_s32(base.b, vshlq_n_s32(count.b, 1))};
}

// Numbers of at most 255, rounded to the nearest, halves to even; negative ones become 0. They take two bytes each, as
// wide as is multiplied here.
constexpr int kByteSize = 2;
inline void store_bytes(uint8_t* p, F v) {
  const uint16x4_t low = vmovn_u32(vcvtnq_u32_f32(v.a)), high = vmovn_u32(vcvtnq_u32_f32(v.b));
  vst1q_u8(p, vreinterpretq_u8_u16(vcombine_u16(low, high)));
}

inline F bytes_as_floats(const uint8_t* p) {
  const uint16x8_t wide = vreinterpretq_u16_u8(vld1q_u8(p));
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(wide)))};
}

constexpr int kMoved = 16;  // those of a vector of numbers
using B = uint8x16_t;
inline B load_moved(const uint8_t* p) { return vld1q_u8(p); }
inline void store_first(uint8_t* p, B v, int) { vst1q_u8(p, v); }
inline B max_bytes(B a, B b) { return vmaxq_u8(a, b); }
inline B take_bytes(B kept, B from, const uint8_t* byte) { return vqtbx1q_u8(kept, from, vld1q_u8(byte)); }

inline I load_words(const uint32_t* p) {
  return {vreinterpretq_s32_u32(vld1q_u32(p)), vreinterpretq_s32_u32(vld1q_u32(p + 4))};
}
inline I splat_word(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return {vdupq_n_s32(word), vdupq_n_s32(word)};
}
// Words of one number of each of `rows` tap rows, one or two, for the V vectors of channels of as many columns, which
// are `pixel` bytes apart. The number of the first row, at `first`, goes to place `position` of its word.
template <int V>
inline void stack_taps(uint8_t* to, const uint8_t* first, int64_t pixel, int64_t columns, int64_t below, int rows,
                       int position) {
  const uint16x8_t none = vdupq_n_u16(0);
  for (int64_t x = 0; x < columns; ++x, first += pixel) {
    BBG_FOR(v, V) {
      const uint8_t* at = first + v * kLanes * kByteSize;
      const uint16x8_t row = vreinterpretq_u16_u8(vld1q_u8(at));
      const uint16x8_t second = rows == 2 ? vreinterpretq_u16_u8(vld1q_u8(at + below)) : row;
      const uint16x8_t low = position == 0 ? row : none, high = rows + position == 2 ? second : none;
      vst1q_u8(to, vreinterpretq_u8_u16(vzip1q_u16(low, high)));
      vst1q_u8(to + 16, vreinterpretq_u8_u16(vzip2q_u16(low, high)));
      to += 32;
    }
  }
}

inline int32x4_t dot(int32x4_t sum, int32x4_t bytes, int32x4_t weights) {
  const int16x8_t x = vreinterpretq_s16_s32(bytes), w = vreinterpretq_s16_s32(weights);
  const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(w));
  return vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(x, w)));
}
inline I dot(I sum, I bytes, I weights) { return {dot(sum.a, bytes.a, weights.a), dot(sum.b, bytes.b, weights.b)}; }

// The count is per byte; bytes take 31 words of 8, so widening is rare.
template <int P, int V, CountMethod kMethod>
struct Counter {
  static constexpr int kMostWords = 31;
  static constexpr int kParts = 2 * V;  // registers of four lanes

  uint32x4_t total[P][kParts];

  BBG_INLINE Counter(const int32_t*, const int32_t*) {
    BBG_FOR(p, P)
      BBG_FOR(v, kParts) total[p][v] = vdupq_n_u32(0);
  }

  BBG_INLINE void run(const Conv& conv, const uint8_t* at, const int32_t* offsets, const uint32_t* w, const uint32_t* m,
                      int items) {
    for (int first = 0; first < items; first += kMostWords) {
      const int end = items - first < kMostWords ? items : first + kMostWords;
      uint8x16_t bytes[P][kParts];
      BBG_FOR(p, P)
        BBG_FOR(v, kParts) bytes[p][v] = vdupq_n_u8(0);
      for (int j = first; j < end; ++j, w += 4 * kParts) {
        const uint8_t* a = at + offsets[j];
        BBG_FOR(p, P) {
          uint32_t one;
          __builtin_memcpy(&one, a + p * conv.column, sizeof one);
          const uint32x4_t word = vdupq_n_u32(one);
          BBG_FOR(v, kParts) {
            uint32x4_t differ = veorq_u32(word, vld1q_u32(w + 4 * v));
            if (kMethod == CountMethod::masked) differ = vandq_u32(differ, vld1q_u32(m + 4 * v));
            bytes[p][v] = vaddq_u8(bytes[p][v], vcntq_u8(vreinterpretq_u8_u32(differ)));
          }
        }
        if (kMethod == CountMethod::masked) m += 4 * kParts;
      }
      BBG_FOR(p, P) {
        BBG_FOR(v, kParts) total[p][v] = vpadalq_u16(total[p][v], vpaddlq_u8(bytes[p][v]));
      }
    }
  }

  BBG_INLINE I result(int p, int v, const int32_t* base) const {
    const I count = {vreinterpretq_s32_u32(total[p][2 * v]), vreinterpretq_s32_u32(total[p][2 * v + 1])};
    return minus_twice(load(base), count);
  }
};
