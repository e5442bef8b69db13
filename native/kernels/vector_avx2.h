// The vocabulary in AVX2 with FMA: eight lanes.

constexpr int kLanes = 8;
constexpr int kMaxPixels = 4;
constexpr int kBytePixels = 6;  // times two vectors of channels: with the weights and a word they fill the registers

using F = __m256;
using I = __m256i;

inline F load(const float* p) { return _mm256_loadu_ps(p); }
// The first n lanes; 0 in the others, of which nothing is read.
inline F load_first(const float* p, int n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
}
inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline F take(F kept, F from, const int32_t* lane) {
  const I index = _mm256_loadu_si256(reinterpret_cast<const I*>(lane));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(from, index), kept, _mm256_castsi256_ps(index));  // by the sign
}
inline F splat(float x) { return _mm256_set1_ps(x); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F sqrt(F a) { return _mm256_sqrt_ps(a); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F to_float(I a) { return _mm256_cvtepi32_ps(a); }
inline F select_by_sign(F v, F above, F below) {
  return _mm256_blendv_ps(below, above, _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GE_OQ));
}

inline F as_exponent(F v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 23)); }

inline F split_power(F x, F& fraction) {
  const I bits = _mm256_castps_si256(x);
  const I n = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(kBitsOfRootHalf)), 23);
  fraction = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(n, 23)));
  return _mm256_cvtepi32_ps(n);
}

inline uint32_t ge_mask(F a, F b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))); }
inline uint32_t ge_mask(I a, I b) {
  return ~uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a)))) & 0xff;
}

// Numbers of at most 255, rounded to the nearest, halves to even; negative ones become 0. They take two bytes each: a
// product of a byte and a weight fits the signed 16 bits that this set multiplies and adds in pairs; a sum of two in
// one byte each would not.
constexpr int kByteSize = 2;
inline void store_bytes(uint8_t* p, F v) {
  const I wide = _mm256_cvtps_epi32(v);
  const __m128i narrow = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow);
}

inline F bytes_as_floats(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

constexpr int kMoved = 16;  // those of a vector of numbers
using B = __m128i;
inline B load_moved(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const B*>(p)); }
inline void store_first(uint8_t* p, B v, int) { _mm_storeu_si128(reinterpret_cast<B*>(p), v); }
inline B max_bytes(B a, B b) { return _mm_max_epu8(a, b); }
inline B take_bytes(B kept, B from, const uint8_t* byte) {
  const B index = load_moved(byte);
  return _mm_blendv_epi8(_mm_shuffle_epi8(from, index), kept, index);  // by the sign
}

inline I load_words(const void* p) { return _mm256_loadu_si256(static_cast<const I*>(p)); }
inline I load(const int32_t* p) { return load_words(p); }
inline I splat_word(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return _mm256_set1_epi32(word);
}
inline I minus_twice(I base, I count) { return _mm256_sub_epi32(base, _mm256_add_epi32(count, count)); }

// Words of one number of each of `rows` tap rows, one or two, for the V vectors of channels of as many columns, which
// are `pixel` bytes apart. The number of the first row, at `first`, goes to place `position` of its word.
template <int V>
inline void stack_taps(uint8_t* to, const uint8_t* first, int64_t pixel, int64_t columns, int64_t below, int rows,
                       int position) {
  const auto load_row = [](const uint8_t* at) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  };
  constexpr int kVector = kLanes * kByteSize;
  for (int64_t x = 0; x < columns; ++x, first += pixel) {
    BBG_FOR(v, V) {
      I words = load_row(first + v * kVector);
      if (position == 1) words = _mm256_slli_epi32(words, 16);
      if (rows == 2) words = _mm256_or_si256(words, _mm256_slli_epi32(load_row(first + below + v * kVector), 16));
      _mm256_storeu_si256(reinterpret_cast<I*>(to), words);
      to += sizeof words;
    }
  }
}

// The addition is in assembly so that each sum stays in its register. Otherwise GCC 12 puts the sums of a step into
// other registers, copies them back, and keeps most sums of six pixels in memory.
inline I dot(I sum, I bytes, I weights) {
  __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(bytes, weights)));
  return sum;
}

// Population count of every byte, from a table of nibbles.
inline I ones_of_bytes(I x) {
  const I table =
      _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const I nibble = _mm256_set1_epi8(15);
  const I low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
  const I high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
  return _mm256_add_epi8(low, high);
}

// Counts stay in bytes for as many words as a byte can take, 31 times 8.
template <int P, int V, CountMethod kMethod>
struct Counter {
  static constexpr bool kTwoPixels = kMethod == CountMethod::two_pixels;
  static constexpr int kPixels = kTwoPixels ? (P + 1) / 2 : P;  // two count in the halves of a lane
  static constexpr int kMostWords = 31;

  I total[kPixels][V];

  BBG_INLINE Counter(const int32_t*, const int32_t*) {
    BBG_FOR(p, kPixels) {
      BBG_FOR(v, V) total[p][v] = _mm256_setzero_si256();
    }
  }

  BBG_INLINE void run(const Conv& conv, const uint8_t* at, const int32_t* offsets, const uint32_t* w, const uint32_t* m,
                      int items) {
    const int64_t column = kTwoPixels ? 2 * conv.column : conv.column;
    for (int first = 0; first < items; first += kMostWords) {
      const int end = items - first < kMostWords ? items : first + kMostWords;
      I bytes[kPixels][V];
      BBG_FOR(p, kPixels) {
        BBG_FOR(v, V) bytes[p][v] = _mm256_setzero_si256();
      }
      for (int j = first; j < end; ++j, w += V * kLanes) {
        const uint8_t* a = at + offsets[j];
        BBG_FOR(p, kPixels) {
          const I word = splat_word(a + p * column);
          BBG_FOR(v, V) {
            I differ = _mm256_xor_si256(word, load_words(w + v * kLanes));
            if (kMethod == CountMethod::masked) differ = _mm256_and_si256(differ, load_words(m + v * kLanes));
            bytes[p][v] = _mm256_add_epi8(bytes[p][v], ones_of_bytes(differ));
          }
        }
        if (kMethod == CountMethod::masked) m += V * kLanes;
      }
      BBG_FOR(p, kPixels) {
        BBG_FOR(v, V) total[p][v] = widened(total[p][v], bytes[p][v]);
      }
    }
  }

  // sum + the counts of each four bytes, or of each two where a lane counts for two pixels.
  static BBG_INLINE I widened(I sum, I bytes) {
    const I halves = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    if (kTwoPixels) return _mm256_add_epi16(sum, halves);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(halves, _mm256_set1_epi16(1)));
  }

  BBG_INLINE I result(int p, int v, const int32_t* base) const {
    if (!kTwoPixels) return minus_twice(load(base), total[p][v]);
    const I both = total[p / 2][v];
    const I half = p % 2 ? _mm256_srli_epi32(both, 16) : _mm256_and_si256(both, _mm256_set1_epi32(0xffff));
    return minus_twice(load(base), half);
  }
};

// ---- the table kernel: see nibbles.inl ----------------------------------------------------------------------------

// rows[16 a + w] = popcount(a ^ w).
struct NibbleTable {
  alignas(16) uint8_t rows[16 * 16];

  constexpr NibbleTable() : rows() {
    for (int a = 0; a < 16; ++a) {
      for (int w = 0; w < 16; ++w) {
        const int differ = a ^ w;
        rows[16 * a + w] = uint8_t((differ & 1) + (differ >> 1 & 1) + (differ >> 2 & 1) + (differ >> 3));
      }
    }
  }
};
constexpr NibbleTable kNibbleTable;

inline I nibble_row_at(uint32_t byte_offset) {
  const uint8_t* row = kNibbleTable.rows + byte_offset;
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
}

// Keep a value in its register. Left alone, GCC loads weights once per pixel, which two loads per cycle don't allow,
// adds results up before it adds them to the counts, which spills, and takes each nibble out of the word anew.
inline void pin(I& a) { __asm__("" : "+x"(a)); }
inline void pin(uint32_t& a) { __asm__("" : "+r"(a)); }

// Counts, in bytes, of P pixels and V vectors of 32 filters.
template <int P, int V>
struct NibbleCounter {
  I bytes[P][V];

  BBG_INLINE NibbleCounter() {
    BBG_FOR(p, P)
      BBG_FOR(v, V) bytes[p][v] = _mm256_setzero_si256();
  }

  BBG_INLINE void run(const uint8_t* at, int64_t column, const int32_t* offsets, const uint8_t* w, int words) {
    for (int j = 0; j < words; ++j, w += 8 * V * 32) {
      const uint8_t* a = at + offsets[j];
      uint32_t even[P], odd[P];  // nibbles times 16, the size of a row
      BBG_FOR(p, P) {
        uint32_t word;
        __builtin_memcpy(&word, a + p * column, sizeof word);
        even[p] = word << 4 & 0xf0f0f0f0u;
        odd[p] = word & 0xf0f0f0f0u;
        pin(even[p]), pin(odd[p]);
      }
      BBG_FOR(i, 8) {
        I row[P];
        BBG_FOR(p, P) row[p] = nibble_row_at((i % 2 ? odd : even)[p] >> i / 2 * 8 & 0xff);
        BBG_FOR(v, V) {
          I weight = load_words(w + (i * V + v) * 32);
          if (P > 1) pin(weight);
          BBG_FOR(p, P) {
            bytes[p][v] = _mm256_add_epi8(bytes[p][v], _mm256_shuffle_epi8(row[p], weight));
            pin(bytes[p][v]);
          }
        }
      }
    }
  }

  // To counts[pixel][filter]: even bytes are the filters 0 to 15 of 32, odd bytes the others.
  BBG_INLINE void store(uint16_t* counts) const {
    BBG_FOR(p, P) {
      BBG_FOR(v, V) {
        I* to = reinterpret_cast<I*>(counts) + (p * V + v) * 2;
        _mm256_store_si256(to, low_bytes(p, v));
        _mm256_store_si256(to + 1, high_bytes(p, v));
      }
    }
  }
  BBG_INLINE void add(uint16_t* counts) const {
    BBG_FOR(p, P) {
      BBG_FOR(v, V) {
        I* to = reinterpret_cast<I*>(counts) + (p * V + v) * 2;
        _mm256_store_si256(to, _mm256_add_epi16(_mm256_load_si256(to), low_bytes(p, v)));
        _mm256_store_si256(to + 1, _mm256_add_epi16(_mm256_load_si256(to + 1), high_bytes(p, v)));
      }
    }
  }

  BBG_INLINE I low_bytes(int p, int v) const { return _mm256_and_si256(bytes[p][v], _mm256_set1_epi16(0xff)); }
  BBG_INLINE I high_bytes(int p, int v) const { return _mm256_srli_epi16(bytes[p][v], 8); }
};

// Counts in 16 bits, pixels `stride` apart.
struct NibbleCounts {
  const uint16_t* at;
  int64_t stride;

  BBG_INLINE I result(int p, int v, const int32_t* base) const {
    const uint16_t* from = at + p * stride + v * kLanes;
    return minus_twice(load(base), _mm256_cvtepu16_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(from))));
  }
};
