// S, the sum of the +-1 inputs of each window, read where weights have a shift: part of kernels.inl. One item is a row.

// Set bits of a pixel among its channels [from, to).
inline int64_t ones_between(const uint8_t* pixel, int64_t from, int64_t to) {
  int64_t count = 0;
  for (; from < to && from % 8; ++from) count += pixel[from / 8] >> from % 8 & 1;
  for (; from + 8 <= to; from += 8) count += __builtin_popcount(pixel[from / 8]);
  for (; from < to; ++from) count += pixel[from / 8] >> from % 8 & 1;
  return count;
}

// K numbers +-1 of which `ones` are +1 sum up to 2 * ones - K, where K counts the taps inside the map.
void window_sum(const void* args, const Worker& worker, int64_t, int64_t begin, int64_t end) {
  const WindowSum& k = *static_cast<const WindowSum*>(args);
  float* const sums = reinterpret_cast<float*>(worker.workspace + k.sums);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / k.height, y = item % k.height;
    const Window& rows = k.rows[y];
    for (int64_t x = 0; x < k.width; ++x) {
      const Window& cols = k.cols[x];
      for (int64_t g = 0; g < k.groups; ++g) {
        int64_t ones = 0;
        for (int64_t i = 0; i < rows.count; ++i) {
          for (int64_t j = 0; j < cols.count; ++j) {
            const uint8_t* pixel =
                pixel_of(k.input, worker, n, rows.begin + i * k.dilation_y, cols.begin + j * k.dilation_x);
            ones += ones_between(pixel, g * k.inputs, (g + 1) * k.inputs);
          }
        }
        const int64_t sum = 2 * ones - int64_t(rows.count) * cols.count * k.inputs;
        sums[((n * k.height + y) * k.width + x) * k.groups + g] = float(sum);
      }
    }
  }
}
