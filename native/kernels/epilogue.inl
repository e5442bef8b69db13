// The epilogue: from accumulators to stored results. Part of kernels.inl.

// Null for an absent value.
inline uint8_t* pixel_of(const Layout& layout, const Worker& worker, int64_t n, int64_t y, int64_t x) {
  if (layout.at == kNowhere) return nullptr;
  return worker.workspace + (layout.at + n * layout.image + y * layout.row + x * layout.pixel);
}

inline void zero_bytes(uint8_t* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = 0;
}

// Readers rely on zeros beside each row. In a join, its first slice clears them.
inline void clear_margins(const Layout& layout, const Worker& worker, int64_t n, int64_t y, int64_t width) {
  if (layout.at == kNowhere || layout.slice || !(layout.left | layout.right)) return;
  uint8_t* row = pixel_of(layout, worker, n, y, 0);
  zero_bytes(row - layout.left, layout.left);
  zero_bytes(row + width * layout.pixel, layout.right);
}

template <int V>
inline void store_bits(uint8_t* to, const uint32_t (&mask)[V]) {
  constexpr int kBytes = V * kLanes / 8;
  uint32_t bits = mask[0];
  if (V == 2) bits |= mask[V - 1] << (kLanes % 32);
  __builtin_memcpy(to, &bits, kBytes);  // every supported machine is little-endian
}

// Bytes of a pixel behind the last block hold no channel.
template <int V>
inline void clear_tail(const Epilogue& e, uint8_t* pixel, int c, int pixels) {
  const int64_t used = c / 8 + V * kLanes / 8;
  if (c + V * kLanes < e.channels || used >= e.bits.pixel) return;
  for (int p = 0; p < pixels; ++p) zero_bytes(pixel + p * e.bits.pixel + used, e.bits.pixel - used);
}

// Pixel 0 of one row of the result, of the shortcut and of S; null where absent.
struct RowPointers {
  uint8_t *shortcut, *real, *bits, *bytes;
  const float* window_sum;
  int64_t y;
};

// The rows an item writes. Also zeroes their margins if the item is the one for the first channels.
inline RowPointers row_pointers(const Epilogue& e, const Worker& worker, int64_t n, int64_t y, bool first) {
  if (first) {
    clear_margins(e.real, worker, n, y, e.width);
    clear_margins(e.bits, worker, n, y, e.width);
    clear_margins(e.bytes, worker, n, y, e.width);
  }
  const float* sums = reinterpret_cast<const float*>(worker.workspace + e.window_sum);
  return {pixel_of(e.shortcut, worker, n, y, 0),
          pixel_of(e.real, worker, n, y, 0),
          pixel_of(e.bits, worker, n, y, 0),
          pixel_of(e.bytes, worker, n, y, 0),
          e.shift ? sums + (n * e.height + y) * e.width * e.groups : nullptr,
          y};
}

BBG_BLOCK F load_window_sum(const Epilogue& e, const RowPointers& at, int64_t x, int c) {
  const float* sums = at.window_sum + x * e.groups;
  if (e.groups == 1) return splat(*sums);
  float lane[kLanes];
  for (int i = 0; i < kLanes; ++i) lane[i] = sums[e.group[c + i]];
  return load(lane);
}

// The mean of every `outputs`-th of `given` channels from c on, for each lane and P pixels: whole vectors of them, then
// those channels that have one more. `part`: of each channel of the result, one over how many there are.
template <int P>
BBG_INLINE void mean_of_channels(F (&mean)[P], const uint8_t* pixel, int64_t step, int given, int outputs, int c,
                                 const float* part) {
  const float* at[P];
  BBG_FOR(p, P) {
    at[p] = reinterpret_cast<const float*>(pixel + p * step) + c;
    mean[p] = load(at[p]);
  }
  if (given == outputs) return;
  int from = outputs;
  for (; from + outputs <= given; from += outputs) {
    BBG_FOR(p, P) mean[p] = add(mean[p], load(at[p] + from));
  }
  const int rest = given % outputs;
  if (c < rest) {
    const int more = rest - c < kLanes ? rest - c : kLanes;
    BBG_FOR(p, P) mean[p] = add(mean[p], load_first(at[p] + from, more));
  }
  const F factor = load(part + c);
  BBG_FOR(p, P) mean[p] = mul(mean[p], factor);
}

// The largest of them; what lies behind the last is none.
template <int P>
BBG_INLINE void max_of_channels(F (&most)[P][1], const uint8_t* pixel, int64_t step, int given, int outputs, int c) {
  const float* at[P];
  BBG_FOR(p, P) {
    at[p] = reinterpret_cast<const float*>(pixel + p * step) + c;
    most[p][0] = load(at[p]);
  }
  int from = outputs;
  for (; from + outputs <= given; from += outputs) {
    BBG_FOR(p, P) most[p][0] = max(most[p][0], load(at[p] + from));
  }
  for (int lane = 0; from < given && lane < kLanes && c + lane < given - from; ++lane) {
    BBG_FOR(p, P) {
      float own[kLanes];
      store(own, most[p][0]);
      own[lane] = at[p][from + lane] > own[lane] ? at[p][from + lane] : own[lane];
      most[p][0] = load(own);
    }
  }
}

// V vectors of channels from c on of a shortcut with another number of channels (plan/fusion.cpp): their means where it
// has more. Else it repeats its own: a vector is read from where its first channel is, and what lies behind the
// shortcut's last channel is taken from its first vector.
//
//   shortcut   |0 .... 23|           vectors from 0 |0 ... 15|, from 16 |16 .. 23 0 .. 7|, from 8 |8 ... 23|, ...
template <int P, int V>
BBG_BLOCK void matched_shortcut(const Epilogue& e, const uint8_t* pixel, int c, F (&value)[P][V]) {
  const int64_t step = e.shortcut.pixel;
  const int given = int(e.shortcut.channels);
  BBG_FOR(v, V) {
    const int at = c + v * kLanes;
    F own[P];
    if (e.part) {
      mean_of_channels<P>(own, pixel, step, given, e.channels, at, e.part);
    } else {
      BBG_FOR(p, P) {
        const float* shortcut = reinterpret_cast<const float*>(pixel + p * step);
        own[p] = take(load(shortcut + at % given), load(shortcut), e.repeat + at);
      }
    }
    BBG_FOR(p, P) value[p][v] = own[p];
  }
}

template <int P, int V>
BBG_INLINE void scale_and_bias(const Epilogue& e, F (&value)[P][V], int c, const float* bias, const int32_t* border) {
  F scale[V];
  BBG_FOR(v, V) scale[v] = load(e.scale + c + v * kLanes);
  if (border) {
    BBG_FOR(p, P) {
      const float* own = bias + border[p];
      BBG_FOR(v, V) value[p][v] = fma(scale[v], value[p][v], load(own + v * kLanes));
    }
  } else {
    BBG_FOR(v, V) {
      const F same = load(bias + v * kLanes);
      BBG_FOR(p, P) value[p][v] = fma(scale[v], value[p][v], same);
    }
  }
}

// The epilogue of docs/format.md for P pixels from x on and V vectors of channels from c on: `value` holds the
// accumulators and becomes the real results. The bias of channel c for pixel p is at bias[border[p]], or at *bias for
// all where border is null.
//
// With kNumbers it is that of a convolution of numbers: the shortcut may be bytes, and a function may follow.
template <int P, int V, bool kShift = false, bool kNumbers = false>
BBG_INLINE void apply_epilogue(const Epilogue& e, F (&value)[P][V], const RowPointers& at, int64_t x, int c,
                               const float* bias, const int32_t* border) {
  scale_and_bias<P, V>(e, value, c, bias, border);
  if (kShift && e.shift) {
    BBG_FOR(v, V) {
      const F shift = load(e.shift + c + v * kLanes);
      BBG_FOR(p, P) value[p][v] = fma(shift, load_window_sum(e, at, x + p, c + v * kLanes), value[p][v]);
    }
  }
  if (at.shortcut) {
    const int64_t step = e.shortcut.pixel;
    const uint8_t* pixel = at.shortcut + x * step;
    F gate[V];
    int from[V];
    BBG_FOR(v, V) gate[v] = load(e.gate + c + v * kLanes), from[v] = c + v * kLanes;
    if (kNumbers && e.byte_shortcut) {
      BBG_FOR(p, P) {
        BBG_FOR(v, V) {
          value[p][v] = fma(gate[v], bytes_as_floats(pixel + p * step + (c + v * kLanes) * kByteSize), value[p][v]);
        }
      }
    } else if (e.repeat || e.part) {
      F matched[P][V];
      matched_shortcut<P, V>(e, pixel, c, matched);
      BBG_FOR(p, P) {
        BBG_FOR(v, V) value[p][v] = fma(gate[v], matched[p][v], value[p][v]);
      }
    } else {
      if (e.shortcut.channels < e.channels) {
        BBG_FOR(v, V) from[v] %= int(e.shortcut.channels);
      }
      BBG_FOR(p, P) {
        const float* shortcut = reinterpret_cast<const float*>(pixel + p * step);
        BBG_FOR(v, V) value[p][v] = fma(gate[v], load(shortcut + from[v]), value[p][v]);
      }
    }
  }
  if (e.above) {
    BBG_FOR(v, V) {
      const F above = load(e.above + c + v * kLanes), below = load(e.below + c + v * kLanes);
      const F offset = load(e.offset + c + v * kLanes);
      BBG_FOR(p, P) value[p][v] = fma(value[p][v], select_by_sign(value[p][v], above, below), offset);
    }
  }
  if (e.clip) {
    const F low = splat(e.low), high = splat(e.high);
    BBG_FOR(v, V) {
      BBG_FOR(p, P) value[p][v] = min(high, max(low, value[p][v]));  // the second where it is no number
    }
  }
  if (kNumbers && e.function) {
    float numbers[P * V * kLanes];  // an address of `value` would keep it in memory for all
    BBG_FOR(p, P) {
      BBG_FOR(v, V) store(numbers + (p * V + v) * kLanes, value[p][v]);
    }
    e.function(numbers, P * V);
    BBG_FOR(p, P) {
      BBG_FOR(v, V) value[p][v] = load(numbers + (p * V + v) * kLanes);
    }
  }
}

// Writes real results as real numbers, bits and bytes. Strides are copied to locals, since the compiler must assume
// that the stores overwrite them.
template <int P, int V>
BBG_INLINE void store_result(const Epilogue& e, const F (&value)[P][V], const RowPointers& at, int64_t x, int c) {
  if (at.real) {
    const int64_t step = e.real.pixel;
    uint8_t* pixel = at.real + x * step + c * int64_t(sizeof(float));
    BBG_FOR(p, P) {
      float* real = reinterpret_cast<float*>(pixel + p * step);
      BBG_FOR(v, V) store(real + v * kLanes, value[p][v]);
    }
  }
  if (at.bits) {
    const int64_t step = e.bits.pixel;
    uint8_t* pixel = at.bits + x * step;
    F threshold[V];
    BBG_FOR(v, V) threshold[v] = load(e.bit_threshold + c + v * kLanes);
    BBG_FOR(p, P) {
      uint32_t mask[V];
      BBG_FOR(v, V) mask[v] = ge_mask(value[p][v], threshold[v]);
      store_bits<V>(pixel + p * step + c / 8, mask);
    }
    clear_tail<V>(e, pixel, c, P);
  }
  if (at.bytes) {
    const int64_t step = e.bytes.pixel;
    uint8_t* pixel = at.bytes + x * step + c * kByteSize;
    F byte[P][V];
    BBG_FOR(v, V) {
      const F scale = load(e.byte_scale + c + v * kLanes), zero = load(e.byte_bias + c + v * kLanes);
      const F most = load(e.byte_high + c + v * kLanes);
      BBG_FOR(p, P) byte[p][v] = min(fma(value[p][v], scale, zero), most);
    }
    if (e.byte_low) {
      BBG_FOR(v, V) {
        const F least = load(e.byte_low + c + v * kLanes);
        BBG_FOR(p, P) byte[p][v] = max(byte[p][v], least);
      }
    }
    constexpr int kPairs = kByteSize == 1 && V == 2 ? P / 2 : 0;
    if constexpr (kPairs > 0) {
      BBG_FOR(pair, kPairs) store_bytes(pixel + 2 * pair * step, step, byte[2 * pair], byte[2 * pair + 1]);
    }
    BBG_UNROLL for (int p = 2 * kPairs; p < P; ++p) {
      BBG_FOR(v, V) store_bytes(pixel + p * step + v * kLanes * kByteSize, byte[p][v]);
    }
  }
}

template <int P, int V, bool kShift = false, bool kNumbers = false>
BBG_INLINE void apply_and_store(const Epilogue& e, F (&value)[P][V], const RowPointers& at, int64_t x, int c,
                                const float* bias, const int32_t* border) {
  apply_epilogue<P, V, kShift, kNumbers>(e, value, at, x, c, bias, border);
  store_result<P, V>(e, value, at, x, c);
}
