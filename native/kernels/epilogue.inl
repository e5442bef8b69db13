// Where results go and what becomes of an accumulator on the way: part of kernels.inl.

// Null for an absent value.
inline uint8_t* pixel_of(const Map& m, int64_t n, int64_t y, int64_t x) {
  return m.data == nullptr ? nullptr : m.data + n * m.image + y * m.row + x * m.pixel;
}

inline void zero_bytes(uint8_t* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = 0;
}

// Readers rely on zeros beside each row.
inline void clear_margins(const Map& m, int64_t n, int64_t y, int64_t width) {
  if (!m.data || !(m.left | m.right)) return;
  uint8_t* row = pixel_of(m, n, y, 0);
  zero_bytes(row - m.left, m.left);
  zero_bytes(row + width * m.pixel, m.right);
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

// One row of the result and of what is added to it.
struct Place {
  uint8_t *shortcut, *real, *bits, *bytes;
  int64_t n, y;
};

// Where an item writes; also zeroes the row's margins if the item is the one for the first channels.
inline Place place(const Epilogue& e, int64_t n, int64_t y, bool first) {
  if (first) {
    clear_margins(e.real, n, y, e.width);
    clear_margins(e.bits, n, y, e.width);
    clear_margins(e.bytes, n, y, e.width);
  }
  return {pixel_of(e.shortcut, n, y, 0), pixel_of(e.real, n, y, 0), pixel_of(e.bits, n, y, 0),
          pixel_of(e.bytes, n, y, 0), n, y};
}

BBG_BLOCK F window_sum(const Epilogue& e, const Place& at, int64_t x, int c) {
  const float* sums = e.window_sum + ((at.n * e.height + at.y) * e.width + x) * e.groups;
  if (e.groups == 1) return splat(*sums);
  float lane[kLanes];
  for (int i = 0; i < kLanes; ++i) lane[i] = sums[e.group[c + i]];
  return load(lane);
}

template <int P, int V>
BBG_INLINE void scale_and_bias(const Epilogue& e, F (&v)[P][V], int c, const float* bias, const int32_t* border) {
  F scale[V];
  BBG_UNROLL for (int i = 0; i < V; ++i) scale[i] = load(e.scale + c + i * kLanes);
  if (border) {
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      const float* own = bias + border[p];
      BBG_UNROLL for (int i = 0; i < V; ++i) v[p][i] = fma(scale[i], v[p][i], load(own + i * kLanes));
    }
  } else {
    BBG_UNROLL for (int i = 0; i < V; ++i) {
      const F same = load(bias + i * kLanes);
      BBG_UNROLL for (int p = 0; p < P; ++p) v[p][i] = fma(scale[i], v[p][i], same);
    }
  }
}

// The epilogue of docs/format.md for P pixels from x on and V vectors of channels from c on: v is the accumulator and
// becomes the real result. The bias of channel c for pixel p is at bias[border[p]], or at *bias for all where border is
// null.
template <int P, int V, bool kShift = false>
BBG_INLINE void settle(const Epilogue& e, F (&v)[P][V], const Place& at, int64_t x, int c, const float* bias,
                       const int32_t* border) {
  scale_and_bias<P, V>(e, v, c, bias, border);
  if (kShift && e.shift) {
    BBG_UNROLL for (int i = 0; i < V; ++i) {
      const F shift = load(e.shift + c + i * kLanes);
      BBG_UNROLL for (int p = 0; p < P; ++p) v[p][i] = fma(shift, window_sum(e, at, x + p, c + i * kLanes), v[p][i]);
    }
  }
  if (at.shortcut) {
    const int64_t step = e.shortcut.pixel;
    const uint8_t* pixel = at.shortcut + x * step;
    F gate[V];
    int from[V];
    BBG_UNROLL for (int i = 0; i < V; ++i) gate[i] = load(e.gate + c + i * kLanes), from[i] = c + i * kLanes;
    if (e.shortcut.channels < e.channels) {
      BBG_UNROLL for (int i = 0; i < V; ++i) from[i] %= int(e.shortcut.channels);
    }
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      const float* shortcut = reinterpret_cast<const float*>(pixel + p * step);
      BBG_UNROLL for (int i = 0; i < V; ++i) v[p][i] = fma(gate[i], load(shortcut + from[i]), v[p][i]);
    }
  }
  if (e.above) {
    BBG_UNROLL for (int i = 0; i < V; ++i) {
      const F above = load(e.above + c + i * kLanes), below = load(e.below + c + i * kLanes);
      const F offset = load(e.offset + c + i * kLanes);
      BBG_UNROLL for (int p = 0; p < P; ++p) v[p][i] = fma(v[p][i], choose(v[p][i], above, below), offset);
    }
  }
  if (e.clip) {
    const F low = splat(e.low), high = splat(e.high);
    BBG_UNROLL for (int i = 0; i < V; ++i) {
      BBG_UNROLL for (int p = 0; p < P; ++p) v[p][i] = min(max(v[p][i], low), high);
    }
  }
}

// Writes the real results v as real numbers, bits and bytes. Strides are copied, since the compiler must assume that what
// is stored overwrites them.
template <int P, int V>
BBG_INLINE void put(const Epilogue& e, const F (&v)[P][V], const Place& at, int64_t x, int c) {
  if (at.real) {
    const int64_t step = e.real.pixel;
    uint8_t* pixel = at.real + x * step + c * int64_t(sizeof(float));
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      float* real = reinterpret_cast<float*>(pixel + p * step);
      BBG_UNROLL for (int i = 0; i < V; ++i) store(real + i * kLanes, v[p][i]);
    }
  }
  if (at.bits) {
    const int64_t step = e.bits.pixel;
    uint8_t* pixel = at.bits + x * step;
    F sign[V];
    BBG_UNROLL for (int i = 0; i < V; ++i) sign[i] = load(e.sign + c + i * kLanes);
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      uint32_t mask[V];
      BBG_UNROLL for (int i = 0; i < V; ++i) mask[i] = at_least(v[p][i], sign[i]);
      store_bits<V>(pixel + p * step + c / 8, mask);
    }
    clear_tail<V>(e, pixel, c, P);
  }
  if (at.bytes) {
    uint8_t* pixel = at.bytes + x * e.bytes.pixel + c * kByteSize;
    const F least = splat(0), most = splat(255);
    BBG_UNROLL for (int i = 0; i < V; ++i) {
      const F scale = load(e.byte_scale + c + i * kLanes), zero = load(e.byte_bias + c + i * kLanes);
      BBG_UNROLL for (int p = 0; p < P; ++p) {
        store_bytes(pixel + p * e.bytes.pixel + i * kLanes * kByteSize, min(max(fma(v[p][i], scale, zero), least), most));
      }
    }
  }
}

template <int P, int V, bool kShift = false>
BBG_INLINE void finish(const Epilogue& e, F (&v)[P][V], const Place& at, int64_t x, int c, const float* bias,
                       const int32_t* border) {
  settle<P, V, kShift>(e, v, at, x, c, bias, border);
  put<P, V>(e, v, at, x, c);
}
