// The vocabulary in AVX-512 (F, DQ, BW, VL, VBMI, VNNI, BITALG, VPOPCNTDQ): sixteen lanes.

constexpr int kLanes = 16;
constexpr int kMaxPixels = 8;
constexpr int kBytePixels = kMaxPixels;

using F = __m512;
using I = __m512i;

inline F load(const float* p) { return _mm512_loadu_ps(p); }
// The first n lanes; 0 in the others, of which nothing is read.
inline F load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F take(F kept, F from, const int32_t* lane) {
  const I index = _mm512_loadu_si512(lane);
  return _mm512_mask_permutexvar_ps(kept, _mm512_cmpge_epi32_mask(index, _mm512_setzero_si512()), index, from);
}
inline F splat(float x) { return _mm512_set1_ps(x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F sqrt(F a) { return _mm512_sqrt_ps(a); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline F select_by_sign(F v, F above, F below) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GE_OQ), below, above);
}

inline F as_exponent(F v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 23)); }

inline F split_power(F x, F& fraction) {
  const I bits = _mm512_castps_si512(x);
  const I n = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(kBitsOfRootHalf)), 23);
  fraction = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(n, 23)));
  return _mm512_cvtepi32_ps(n);
}

inline uint32_t ge_mask(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline uint32_t ge_mask(I a, I b) { return _mm512_cmpge_epi32_mask(a, b); }

// Numbers of at most 255, rounded to the nearest, halves to even; negative ones become 0.
constexpr int kByteSize = 1;
inline void store_bytes(uint8_t* p, F v) {
  const I rounded = _mm512_max_epi32(_mm512_cvtps_epi32(v), _mm512_setzero_si512());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(rounded));
}
// Of two vectors of channels of two pixels, `step` bytes apart. Packing leaves quarters of the four vectors side by
// side:
//
//   | a0 b0 c0 d0 | a1 b1 c1 d1 | a2 b2 c2 d2 | a3 b3 c3 d3 |   ->   | a0 a1 a2 a3 | b0 b1 b2 b3 | c0 ...
inline void store_bytes(uint8_t* p, int64_t step, const F (&first)[2], const F (&second)[2]) {
  const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const I ab = _mm512_packs_epi32(_mm512_cvtps_epi32(first[0]), _mm512_cvtps_epi32(first[1]));
  const I cd = _mm512_packs_epi32(_mm512_cvtps_epi32(second[0]), _mm512_cvtps_epi32(second[1]));
  const I bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(ab, cd));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(bytes));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + step), _mm512_extracti64x4_epi64(bytes, 1));
}

inline F bytes_as_floats(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

constexpr int kMoved = 64;
using B = __m512i;
inline B load_moved(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_first(uint8_t* p, B v, int n) { _mm512_mask_storeu_epi8(p, ~__mmask64{0} >> (64 - n), v); }
inline B max_bytes(B a, B b) { return _mm512_max_epu8(a, b); }
inline B take_bytes(B kept, B from, const uint8_t* byte) {
  const B index = _mm512_loadu_si512(byte);
  return _mm512_mask_permutexvar_epi8(kept, ~_mm512_movepi8_mask(index), index, from);
}

inline I load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline I minus_twice(I base, I count) { return _mm512_sub_epi32(base, _mm512_add_epi32(count, count)); }

inline I load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline I splat_word(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return _mm512_set1_epi32(word);
}

// Keeps the compiler from computing everything ahead and running out of registers, and from copying sums about.
inline void pin(I& a) { __asm__ volatile("" : "+v"(a)); }

// Words of one byte of each of `rows` tap rows, at most four, for as many output columns, at most kTailColumn bytes
// apart. The byte of the first row and column is at `first` and goes to byte `position` of its word.
inline void gather_tail_bytes(uint8_t* to, const uint8_t* first, int64_t column, int64_t columns, int64_t below,
                              int rows, int position) {
  const I lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const I from = _mm512_mullo_epi32(lane, _mm512_set1_epi32(0x01010101 * int32_t(column)));  // the same in all bytes
  __mmask64 of_row[4];
  BBG_FOR(r, 4) of_row[r] = r < rows ? 0x1111111111111111u << (position + r) : 0;
  for (int64_t x = 0; x < columns; x += kLanes, first += kLanes * column, to += 4 * kLanes) {
    const int64_t size = (columns - x < kLanes ? columns - x - 1 : kLanes - 1) * column + 1;  // nothing is read behind
    const __mmask64 all = ~__mmask64{0}, low = size < 64 ? all >> (64 - size) : all,
                    high = size > 64 ? all >> (128 - size) : 0;
    I words = _mm512_setzero_si512();
    BBG_FOR(r, 4) {
      if (r >= rows) break;
      const I near = _mm512_maskz_loadu_epi8(low, first + r * below),
              far = _mm512_maskz_loadu_epi8(high, first + r * below + 64);
      words = _mm512_or_si512(words, _mm512_maskz_permutex2var_epi8(of_row[r], near, from, far));
    }
    _mm512_storeu_si512(to, words);
  }
}

// Words of one number of each of `rows` tap rows, at most four, for the V vectors of channels of as many columns, which
// are `pixel` bytes apart. The number of the first row, at `first`, goes to place `position` of its word. Two rows
// share a register:
//
//   rows 0, 1 | a0 b0 c0 ... | a1 b1 c1 ... |      rows 2, 3 | a2 b2 c2 ... | a3 b3 c3 ... |
//   words     | a0 a1 a2 a3 | b0 b1 b2 b3 | ...
template <int V, int R>
inline void stack_rows(uint8_t* to, const uint8_t* first, int64_t pixel, int64_t columns, int64_t below, int position) {
  const I lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const I odd_rows = _mm512_set1_epi32(int32_t(0x20002000u << 8 * position));
  const I from = _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(0x01010101)), odd_rows);
  const I behind = _mm512_add_epi8(from, _mm512_set1_epi8(kLanes));  // of the second vector of channels
  constexpr uint64_t kEach = 0x1111111111111111;                     // lane
  const __mmask64 of_first = kEach * ((R > 1 ? 3 : 1) << position), of_last = kEach * ((R > 3 ? 12 : 4) << position);
  const auto load_row = [&](int r) {
    if (V == 2) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first + r * below));
    return _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first + r * below)));
  };
  const auto load_rows = [&](int r) {
    const I one = _mm512_castsi256_si512(load_row(r));
    return r + 1 < R ? _mm512_inserti64x4(one, load_row(r + 1), 1) : one;
  };
  for (int64_t x = 0; x < columns; ++x, first += pixel, to += V * kLanes * 4) {
    const I low = load_rows(0), high = R > 2 ? load_rows(2) : low;
    BBG_FOR(v, V) {
      const I index = v ? behind : from;
      I words = _mm512_maskz_permutexvar_epi8(of_first, index, low);
      if (R > 2) words = _mm512_mask_permutexvar_epi8(words, of_last, index, high);
      _mm512_storeu_si512(to + v * kLanes * 4, words);
    }
  }
}
template <int V>
inline void stack_taps(uint8_t* to, const uint8_t* first, int64_t pixel, int64_t columns, int64_t below, int rows,
                       int position) {
  switch (rows) {
    case 1: return stack_rows<V, 1>(to, first, pixel, columns, below, position);
    case 2: return stack_rows<V, 2>(to, first, pixel, columns, below, position);
    case 3: return stack_rows<V, 3>(to, first, pixel, columns, below, position);
    default: return stack_rows<V, 4>(to, first, pixel, columns, below, position);
  }
}

inline I dot(I sum, I bytes, I weights) {
  sum = _mm512_dpbusd_epi32(sum, bytes, weights);
  pin(sum);
  return sum;
}

// Three operations per word and vector: XOR with the broadcast word, population count, addition.
template <int P, int V, CountMethod kMethod>
struct Counter {
  I count[P][V];

  BBG_INLINE Counter(const int32_t*, const int32_t*) {
    BBG_FOR(p, P)
      BBG_FOR(v, V) count[p][v] = _mm512_setzero_si512();
  }

  BBG_INLINE void run(const Conv& conv, const uint8_t* at, const int32_t* offsets, const uint32_t* w, const uint32_t* m,
                      int items) {
    if (kMethod != CountMethod::masked) m = w;
    for (int j = 0; j < items; ++j, w += V * kLanes, m += V * kLanes) {
      const uint8_t* a = at + offsets[j];
      I weight[V], mask[V];
      BBG_FOR(v, V) weight[v] = load_words(w + v * kLanes);
      BBG_FOR(v, V) mask[v] = load_words(m + v * kLanes);
      BBG_FOR(p, P) {
        const I word = splat_word(a + p * conv.column);
        BBG_FOR(v, V) {
          I differ = _mm512_xor_si512(word, weight[v]);
          if (kMethod == CountMethod::masked) differ = _mm512_and_si512(differ, mask[v]);
          count[p][v] = _mm512_add_epi32(count[p][v], _mm512_popcnt_epi32(differ));
        }
      }
    }
  }

  BBG_INLINE I result(int p, int v, const int32_t* base) const { return minus_twice(load(base), count[p][v]); }
};

// Halves of a lane count for neighbouring outputs.
template <int P, int V>
struct Counter<P, V, CountMethod::two_pixels> {
  I count[(P + 1) / 2][V];

  BBG_INLINE Counter(const int32_t*, const int32_t*) {
    BBG_FOR(p, (P + 1) / 2)
      BBG_FOR(v, V) count[p][v] = _mm512_setzero_si512();
  }

  BBG_INLINE void run(const Conv& conv, const uint8_t* at, const int32_t* offsets, const uint32_t* w, const uint32_t*,
                      int items) {
    for (int j = 0; j < items; ++j, w += V * kLanes) {
      const uint8_t* a = at + offsets[j];
      I weight[V];
      BBG_FOR(v, V) weight[v] = load_words(w + v * kLanes);
      BBG_FOR(p, (P + 1) / 2) {
        const I words = splat_word(a + 2 * p * conv.column);
        BBG_FOR(v, V) {
          const I ones = _mm512_popcnt_epi16(_mm512_xor_si512(words, weight[v]));
          count[p][v] = _mm512_add_epi16(count[p][v], ones);
        }
      }
    }
  }

  BBG_INLINE I result(int p, int v, const int32_t* base) const {
    const I both = count[p / 2][v];
    const I half = p % 2 ? _mm512_srli_epi32(both, 16) : _mm512_and_si512(both, _mm512_set1_epi32(0xffff));
    return minus_twice(load(base), half);
  }
};

// Three words at a time in carry-save form. With x = a ^ w per word, the parity x1 ^ x2 ^ x3 is one XOR of the parity
// of the three activations with that of the three weights, both known beforehand; the majority is a function of x1, x2
// and the parity. Differing bits are those of the parity and twice those of the majority: one instruction doubles and
// subtracts, so that 8 operations take three words to half the accumulator, where counting word by word takes 9 and two
// at the end. The subtraction could be such an instruction as well, but only two of the four pipes know it.
template <int P, int V>
struct Counter<P, V, CountMethod::carry_save> {
  I half[P][V];

  BBG_INLINE Counter(const int32_t* base, const int32_t* border) {
    BBG_FOR(v, V) half[0][v] = load(base + (border ? *border : 0) + v * kLanes);
    BBG_UNROLL for (int p = 1; p < P; ++p) {
      BBG_FOR(v, V) half[p][v] = border ? load(base + border[p] + v * kLanes) : half[0][v];
    }
  }

  BBG_INLINE void run(const Conv& conv, const uint8_t* first, const int32_t* offsets, const uint32_t* w,
                      const uint32_t*, int items) {
    const int64_t next = conv.next, parity = conv.parity;
    const I minus_two = _mm512_set1_epi32(0xfffe);  // times the low 16 bits, 0 times the others
    for (int j = 0; j < items; ++j, w += 3 * V * kLanes) {
      const uint8_t* a = first + offsets[j];
      I w1[V], w2[V], w3[V];
      BBG_FOR(v, V) {
        w1[v] = load_words(w + v * kLanes);
        w2[v] = load_words(w + (V + v) * kLanes);
        w3[v] = load_words(w + (2 * V + v) * kLanes);  // the parity
      }
      BBG_FOR(p, P) {
        const uint8_t* at = a + p * conv.column;
        const I a1 = splat_word(at), a2 = splat_word(at + next), a3 = splat_word(at + parity);
        BBG_FOR(v, V) {
          const I x1 = _mm512_xor_si512(a1, w1[v]), x2 = _mm512_xor_si512(a2, w2[v]), x3 = _mm512_xor_si512(a3, w3[v]);
          const I majority = _mm512_ternarylogic_epi32(x1, x2, x3, 0xd4);  // of x1, x2 and x1 ^ x2 ^ x3
          const I sum = _mm512_dpwssd_epi32(half[p][v], _mm512_popcnt_epi32(majority), minus_two);
          half[p][v] = _mm512_sub_epi32(sum, _mm512_popcnt_epi32(x3));
          pin(half[p][v]);
        }
      }
    }
  }

  BBG_INLINE I result(int p, int v, const int32_t*) const { return half[p][v]; }
};
