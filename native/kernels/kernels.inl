// The kernels, written once. Each set includes this file in an unnamed namespace after its vocabulary (vector_*.h):
//
//   kLanes, kMaxPixels             floats per vector; pixels per register block
//   F, I                           vectors of kLanes float / int32
//   load store splat               memory and constants
//   add mul fma max min            arithmetic; fma(a, b, c) = a * b + c
//   choose(v, above, below)        v >= 0 ? above : below
//   at_least(a, b)                 bit i: lane i of a >= lane i of b
//   to_float, accumulator          int32 -> float; base - 2 * count
//   Counter<P, V, Count>           the innermost loop: counts differing bits of P pixels for V vectors of filters
//
// Nothing of the standard library is used here: code compiled for one instruction set must not leak into others.

inline uint8_t* pixel_of(const Map& m, int64_t n, int64_t y, int64_t x) {
  return m.data + n * m.image + y * m.row + x * m.pixel;
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

BBG_BLOCK F window_sum(const Epilogue& e, int64_t n, int64_t y, int64_t x, int c) {
  const float* sums = e.window_sum + ((n * e.height + y) * e.width + x) * e.groups;
  if (e.groups == 1) return splat(*sums);
  float lane[kLanes];
  for (int i = 0; i < kLanes; ++i) lane[i] = sums[e.group[c + i]];
  return load(lane);
}

// The epilogue of docs/format.md for P pixels of a row and V vectors of channels from c on: v is the accumulator.
// bias[p] points at the bias of channel c for pixel p.
template <int P, int V>
BBG_INLINE void finish(const Epilogue& e, F (&v)[P][V], const float* const (&bias)[P], int c, int64_t n, int64_t y,
                       int64_t x) {
  BBG_UNROLL for (int i = 0; i < V; ++i) {
    const F scale = load(e.scale + c + i * kLanes);
    BBG_UNROLL for (int p = 0; p < P; ++p) v[p][i] = fma(scale, v[p][i], load(bias[p] + i * kLanes));
  }
  if (e.shift) {
    BBG_UNROLL for (int i = 0; i < V; ++i) {
      const F shift = load(e.shift + c + i * kLanes);
      BBG_UNROLL for (int p = 0; p < P; ++p) v[p][i] = fma(shift, window_sum(e, n, y, x + p, c + i * kLanes), v[p][i]);
    }
  }
  if (e.shortcut.data) {
    const uint8_t* at = pixel_of(e.shortcut, n, y, x);
    const bool repeats = e.shortcut.channels < e.channels;
    BBG_UNROLL for (int i = 0; i < V; ++i) {
      const F gate = load(e.gate + c + i * kLanes);
      const int from = repeats ? (c + i * kLanes) % int(e.shortcut.channels) : c + i * kLanes;
      BBG_UNROLL for (int p = 0; p < P; ++p) {
        const float* shortcut = reinterpret_cast<const float*>(at + p * e.shortcut.pixel) + from;
        v[p][i] = fma(gate, load(shortcut), v[p][i]);
      }
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
  if (e.real.data) {
    uint8_t* at = pixel_of(e.real, n, y, x);
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      float* real = reinterpret_cast<float*>(at + p * e.real.pixel) + c;
      BBG_UNROLL for (int i = 0; i < V; ++i) store(real + i * kLanes, v[p][i]);
    }
  }
  if (e.bits.data) {
    uint8_t* at = pixel_of(e.bits, n, y, x);
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      uint32_t mask[V];
      BBG_UNROLL for (int i = 0; i < V; ++i) mask[i] = at_least(v[p][i], load(e.sign + c + i * kLanes));
      store_bits<V>(at + p * e.bits.pixel + c / 8, mask);
    }
    clear_tail<V>(e, at, c, P);
  }
}

template <int P, int V>
BBG_INLINE void finish(const Epilogue& e, F (&v)[P][V], int c, int64_t n, int64_t y, int64_t x) {
  const float* bias[P];
  BBG_UNROLL for (int p = 0; p < P; ++p) bias[p] = e.bias + c;
  finish<P, V>(e, v, bias, c, n, y, x);
}

// ---- binary convolution -------------------------------------------------------------------------------------------

// From counts of differing bits to the result: the integer accumulator, then a threshold or the epilogue.
template <int P, int V>
BBG_INLINE void finish_counts(const Conv& k, const ConvRow& row, const I (&count)[P][V], int c, int64_t n, int64_t y,
                              int64_t x) {
  const int64_t first = row.cls * k.class_row + c;
  I acc[P][V];
  BBG_UNROLL for (int p = 0; p < P; ++p) {
    const int32_t* base = k.base + first + k.col_class[x + p] * k.class_col;
    BBG_UNROLL for (int v = 0; v < V; ++v) acc[p][v] = accumulator(load(base + v * kLanes), count[p][v]);
  }
  const Epilogue& e = k.out;
  if (e.threshold) {
    uint8_t* at = pixel_of(e.bits, n, y, x);
    BBG_UNROLL for (int p = 0; p < P; ++p) {
      uint32_t mask[V];
      BBG_UNROLL for (int v = 0; v < V; ++v) mask[v] = at_least(acc[p][v], load(e.threshold + c + v * kLanes));
      store_bits<V>(at + p * e.bits.pixel + c / 8, mask);
    }
    clear_tail<V>(e, at, c, P);
    return;
  }
  F value[P][V];
  const float* bias[P];
  BBG_UNROLL for (int p = 0; p < P; ++p) {
    bias[p] = k.class_bias ? k.class_bias + first + k.col_class[x + p] * k.class_col : e.bias + c;
    BBG_UNROLL for (int v = 0; v < V; ++v) value[p][v] = to_float(acc[p][v]);
  }
  finish<P, V>(e, value, bias, c, n, y, x);
}

template <int P, int V, Count kCount>
BBG_INLINE void count_window(const Conv& k, const ConvBlock& b, const ConvRow& row, const uint8_t* at,
                             Counter<P, V, kCount>& counter) {
  const int64_t weights = int64_t(b.length) * V * kLanes;  // per run
  const uint32_t* w = static_cast<const uint32_t*>(b.weights) + row.first * k.runs * weights;
  const uint32_t* m = kCount == Count::masked ? b.mask + row.first * k.runs * weights : w;
  for (int t = 0; t < row.taps; ++t, at += k.tap_row) {
    for (int r = 0; r < k.runs; ++r, w += weights, m += weights) counter.run(at + r * k.run, k, w, m, b.length);
  }
}

template <int P, int V, Count kCount>
BBG_BLOCK void binary_pixels(const Conv& k, const ConvBlock& b, const ConvRow& row, const uint8_t* at, int64_t n,
                             int64_t y, int64_t x) {
  Counter<P, V, kCount> counter;
  count_window<P, V, kCount>(k, b, row, at, counter);
  I count[P][V];
  BBG_UNROLL for (int p = 0; p < P; ++p) BBG_UNROLL for (int v = 0; v < V; ++v) count[p][v] = counter.result(p, v);
  finish_counts<P, V>(k, row, count, b.channel, n, y, x);
}

template <int V, Count kCount>
inline void binary_row(const Conv& k, const ConvBlock& b, const ConvRow& row, const uint8_t* at, int64_t n, int64_t y) {
  // Triples need two accumulators; masks are rare and not worth more code.
  constexpr bool kHalf = kCount == Count::masked || (kCount == Count::triples && V == 2);
  constexpr int kMost = kHalf && kMaxPixels > 4 ? 4 : kMaxPixels;
  const int64_t width = k.out.width;
  for (int64_t x = 0; x < width;) {
    const int64_t left = width - x;
    int step;
    if (kMost >= 8 && left >= 8 && (left % 8 == 0 || left % 7 != 0)) {
      binary_pixels<kMost, V, kCount>(k, b, row, at, n, y, x), step = kMost;
    } else if (kMost >= 8 && left >= 7) {
      binary_pixels<kMost - 1, V, kCount>(k, b, row, at, n, y, x), step = kMost - 1;
    } else if (kMost >= 4 && left >= 4) {
      binary_pixels<4, V, kCount>(k, b, row, at, n, y, x), step = 4;
    } else if (left >= 2) {
      binary_pixels<2, V, kCount>(k, b, row, at, n, y, x), step = 2;
    } else {
      binary_pixels<1, V, kCount>(k, b, row, at, n, y, x), step = 1;
    }
    x += step;
    at += step * k.column;
  }
}

// Count::pairs: the two halves of a lane count for two neighbouring outputs.
template <int P, int V>
BBG_BLOCK void pair_pixels(const Conv& k, const ConvBlock& b, const ConvRow& row, const uint8_t* at, int64_t n,
                           int64_t y, int64_t x, int64_t pixels) {
  Counter<P, V, Count::pairs> counter;
  count_window<P, V, Count::pairs>(k, b, row, at, counter);
  if (P == 1 && pixels == 1) {
    I count[1][V];
    BBG_UNROLL for (int v = 0; v < V; ++v) count[0][v] = counter.even(0, v);
    finish_counts<1, V>(k, row, count, b.channel, n, y, x);
    return;
  }
  I count[2 * P][V];
  BBG_UNROLL for (int p = 0; p < P; ++p) {
    BBG_UNROLL for (int v = 0; v < V; ++v) {
      count[2 * p][v] = counter.even(p, v);
      count[2 * p + 1][v] = counter.odd(p, v);
    }
  }
  finish_counts<2 * P, V>(k, row, count, b.channel, n, y, x);
}

template <int V>
inline void pair_row(const Conv& k, const ConvBlock& b, const ConvRow& row, const uint8_t* at, int64_t n, int64_t y) {
  constexpr int kMost = 8 / V;
  const int64_t width = k.out.width;
  for (int64_t x = 0; x < width;) {
    const int64_t left = width - x;
    int step;
    if (left >= 2 * kMost) {
      pair_pixels<kMost, V>(k, b, row, at, n, y, x, left), step = 2 * kMost;
    } else if (left >= 4) {
      pair_pixels<2, V>(k, b, row, at, n, y, x, left), step = 4;
    } else {
      pair_pixels<1, V>(k, b, row, at, n, y, x, left), step = 2;
    }
    x += step;
    at += step * k.column;
  }
}

template <int V>
inline void binary_item(const Conv& k, const ConvBlock& b, int64_t n, int64_t y) {
  const ConvRow& row = k.rows[y];
  const uint8_t* at = k.input.data + n * k.input.image + row.offset + k.origin + b.offset;
  switch (k.count) {
    case Count::words: return binary_row<V, Count::words>(k, b, row, at, n, y);
    case Count::masked: return binary_row<V, Count::masked>(k, b, row, at, n, y);
    case Count::triples:
      if (kHasTriples) return binary_row<V, kHasTriples ? Count::triples : Count::words>(k, b, row, at, n, y);
      return;
    case Count::pairs:
#if BBG_HAS_PAIRS
      return pair_row<V>(k, b, row, at, n, y);
#endif
      return;
  }
}

void binary_conv(const void* args, int64_t images, int64_t begin, int64_t end) {
  const Conv& k = *static_cast<const Conv*>(args);
  const int64_t per_block = images * k.out.height;
  for (int64_t item = begin; item < end; ++item) {
    const ConvBlock& b = k.blocks[item / per_block];
    const int64_t n = item % per_block / k.out.height, y = item % k.out.height;
    if (b.channel == 0) {
      clear_margins(k.out.real, n, y, k.out.width);
      clear_margins(k.out.bits, n, y, k.out.width);
    }
    if (b.vectors == 2) {
      binary_item<2>(k, b, n, y);
    } else {
      binary_item<1>(k, b, n, y);
    }
  }
}

void parity(const void* args, int64_t images, int64_t begin, int64_t end) {
  (void)images;
  const Parity& k = *static_cast<const Parity*>(args);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / k.rows * k.image + item % k.rows * k.row, step = k.item / 4;
    const uint32_t* from = reinterpret_cast<const uint32_t*>(k.from + row);
    uint32_t* to = reinterpret_cast<uint32_t*>(k.to + row);
    for (int64_t w = 0; w + 2 * step < k.row / 4; ++w) to[w] = from[w] ^ from[w + step] ^ from[w + 2 * step];
  }
}

// ---- float convolution --------------------------------------------------------------------------------------------

template <int P, int V>
BBG_BLOCK void conv_pixels(const Conv& k, const ConvBlock& b, const ConvRow& row, const uint8_t* at, int64_t n,
                           int64_t y, int64_t x) {
  F acc[P][V];
  BBG_UNROLL for (int p = 0; p < P; ++p) BBG_UNROLL for (int v = 0; v < V; ++v) acc[p][v] = splat(0);
  const float* w = static_cast<const float*>(b.weights) + int64_t(row.first) * k.runs * b.length * V * kLanes;
  for (int t = 0; t < row.taps; ++t, at += k.tap_row) {
    for (int r = 0; r < k.runs; ++r) {
      const uint8_t* a = at + r * k.run;
      for (int j = 0; j < b.length; ++j, a += sizeof(float), w += V * kLanes) {
        F weight[V];
        BBG_UNROLL for (int v = 0; v < V; ++v) weight[v] = load(w + v * kLanes);
        BBG_UNROLL for (int p = 0; p < P; ++p) {
          const F in = splat(*reinterpret_cast<const float*>(a + p * k.column));
          BBG_UNROLL for (int v = 0; v < V; ++v) acc[p][v] = fma(in, weight[v], acc[p][v]);
        }
      }
    }
  }
  finish<P, V>(k.out, acc, b.channel, n, y, x);
}

// One output pixel per image (linear layers): four partial sums hide the latency of the additions.
template <int V>
BBG_BLOCK void conv_single(const Conv& k, const ConvBlock& b, const ConvRow& row, const uint8_t* at, int64_t n) {
  constexpr int kSums = 4;
  F acc[kSums][V];
  BBG_UNROLL for (int s = 0; s < kSums; ++s) BBG_UNROLL for (int v = 0; v < V; ++v) acc[s][v] = splat(0);
  const float* w = static_cast<const float*>(b.weights) + int64_t(row.first) * k.runs * b.length * V * kLanes;
  for (int t = 0; t < row.taps; ++t, at += k.tap_row) {
    for (int r = 0; r < k.runs; ++r) {
      const float* a = reinterpret_cast<const float*>(at + r * k.run);
      int j = 0;
      for (; j + kSums <= b.length; j += kSums, w += kSums * V * kLanes) {
        BBG_UNROLL for (int s = 0; s < kSums; ++s) {
          BBG_UNROLL for (int v = 0; v < V; ++v) acc[s][v] = fma(splat(a[j + s]), load(w + (s * V + v) * kLanes), acc[s][v]);
        }
      }
      for (; j < b.length; ++j, w += V * kLanes) {
        BBG_UNROLL for (int v = 0; v < V; ++v) acc[0][v] = fma(splat(a[j]), load(w + v * kLanes), acc[0][v]);
      }
    }
  }
  F sum[1][V];
  BBG_UNROLL for (int v = 0; v < V; ++v) sum[0][v] = add(add(acc[0][v], acc[1][v]), add(acc[2][v], acc[3][v]));
  finish<1, V>(k.out, sum, b.channel, n, 0, 0);
}

template <int V>
inline void conv_item(const Conv& k, const ConvBlock& b, int64_t n, int64_t y) {
  const ConvRow& row = k.rows[y];
  const uint8_t* at = k.input.data + n * k.input.image + row.offset + k.origin + b.offset;
  const int64_t width = k.out.width;
  if (k.out.height == 1 && width == 1) return conv_single<V>(k, b, row, at, n);
  for (int64_t x = 0; x < width;) {
    const int64_t left = width - x;
    int step;
    if (kMaxPixels >= 8 && left >= 8 && (left % 8 == 0 || left % 7 != 0)) {
      conv_pixels<kMaxPixels, V>(k, b, row, at, n, y, x), step = kMaxPixels;
    } else if (kMaxPixels >= 8 && left >= 7) {
      conv_pixels<kMaxPixels - 1, V>(k, b, row, at, n, y, x), step = kMaxPixels - 1;
    } else if (left >= 4) {
      conv_pixels<4, V>(k, b, row, at, n, y, x), step = 4;
    } else if (left >= 2) {
      conv_pixels<2, V>(k, b, row, at, n, y, x), step = 2;
    } else {
      conv_pixels<1, V>(k, b, row, at, n, y, x), step = 1;
    }
    x += step;
    at += step * k.column;
  }
}

void conv(const void* args, int64_t images, int64_t begin, int64_t end) {
  const Conv& k = *static_cast<const Conv*>(args);
  const int64_t per_block = images * k.out.height;
  for (int64_t item = begin; item < end; ++item) {
    const ConvBlock& b = k.blocks[item / per_block];
    const int64_t n = item % per_block / k.out.height, y = item % k.out.height;
    if (b.channel == 0) {
      clear_margins(k.out.real, n, y, k.out.width);
      clear_margins(k.out.bits, n, y, k.out.width);
    }
    if (b.vectors == 2) {
      conv_item<2>(k, b, n, y);
    } else {
      conv_item<1>(k, b, n, y);
    }
  }
}

// ---- pools and channel changes: one item is a row -----------------------------------------------------------------

inline F pooled(const Pool& k, const uint8_t* image, const Window& rows, const Window& cols, int c) {
  const uint8_t* row = image + rows.begin * k.input.row + cols.begin * k.input.pixel + c * int64_t(sizeof(float));
  F value = load(reinterpret_cast<const float*>(row));
  for (int i = 0; i < rows.count; ++i, row += k.dilation_y * k.input.row) {
    const uint8_t* at = row;
    for (int j = 0; j < cols.count; ++j, at += k.dilation_x * k.input.pixel) {
      if (i + j == 0) continue;
      const F next = load(reinterpret_cast<const float*>(at));
      value = k.average ? add(value, next) : max(value, next);
    }
  }
  return k.average ? mul(value, splat(1.0f / (float(rows.extent) * float(cols.extent)))) : value;
}

void pool(const void* args, int64_t images, int64_t begin, int64_t end) {
  (void)images;
  const Pool& k = *static_cast<const Pool*>(args);
  const Epilogue& e = k.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    clear_margins(e.real, n, y, e.width);
    clear_margins(e.bits, n, y, e.width);
    const uint8_t* image = k.input.data + n * k.input.image;
    for (int64_t x = 0; x < e.width; ++x) {
      for (int c = 0; c < e.channels; c += kLanes) {
        F value[1][1] = {{pooled(k, image, k.rows[y], k.cols[x], c)}};
        finish<1, 1>(e, value, c, n, y, x);
      }
    }
  }
}

// OR over the window, and AND = not OR of nots where the mask says so.
void pool_bits(const void* args, int64_t images, int64_t begin, int64_t end) {
  (void)images;
  const Pool& k = *static_cast<const Pool*>(args);
  const Epilogue& e = k.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    clear_margins(e.bits, n, y, e.width);
    const Window& rows = k.rows[y];
    for (int64_t x = 0; x < e.width; ++x) {
      const Window& cols = k.cols[x];
      const uint8_t* from = pixel_of(k.input, n, rows.begin, cols.begin);
      uint16_t* to = reinterpret_cast<uint16_t*>(pixel_of(e.bits, n, y, x));
      for (int64_t w = 0; w < k.input.pixel / 2; ++w) {
        uint16_t any = 0;
        for (int i = 0; i < rows.count; ++i) {
          for (int j = 0; j < cols.count; ++j) {
            const uint8_t* at = from + i * k.dilation_y * k.input.row + j * k.dilation_x * k.input.pixel;
            any = uint16_t(any | (reinterpret_cast<const uint16_t*>(at)[w] ^ k.and_mask[w]));
          }
        }
        to[w] = uint16_t(any ^ k.and_mask[w]);
      }
    }
  }
}

// Channel c of the result from a pixel's channels: c mod in where there are more outputs, else the mean of every
// out-th from c on.
inline F matched(const Match& k, const float* in, int c) {
  const int outputs = k.out.channels, inputs = k.channels;
  if (outputs == inputs) return load(in + c);
  if (outputs > inputs && c % inputs + kLanes <= inputs) return load(in + c % inputs);
  float lane[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const int o = c + i < outputs ? c + i : 0;
    float sum = 0;
    int count = 0;
    for (int from = o % inputs; from < inputs; from += outputs, ++count) sum += in[from];
    lane[i] = sum / float(count);
  }
  return load(lane);
}

void match(const void* args, int64_t images, int64_t begin, int64_t end) {
  (void)images;
  const Match& k = *static_cast<const Match*>(args);
  const Epilogue& e = k.out;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / e.height, y = item % e.height;
    clear_margins(e.real, n, y, e.width);
    clear_margins(e.bits, n, y, e.width);
    for (int64_t x = 0; x < e.width; ++x) {
      const float* in = reinterpret_cast<const float*>(pixel_of(k.input, n, y, x));
      for (int c = 0; c < e.channels; c += kLanes) {
        F value[1][1] = {{matched(k, in, c)}};
        finish<1, 1>(e, value, c, n, y, x);
      }
    }
  }
}
