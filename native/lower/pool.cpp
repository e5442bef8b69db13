// Windows of pools and convolutions, and pools, alone or fused into the convolution before.
#include <algorithm>

#include "lower/conv.h"
#include "lower/lower.h"

namespace bbg {

// Tap t of the window at `position` reads start + t * dilation. Inside the map are those from the first that is at
// least 0 to the last that is below `size`.
Taps valid_taps(const Op& op, int axis, int64_t position, int64_t size) {
  const int64_t start = position * op.stride[axis] - op.padding[axis], dilation = op.dilation[axis];
  const int64_t first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int64_t end = start < size ? std::min(op.kernel[axis], (size - 1 - start) / dilation + 1) : 0;
  return end > first ? Taps{first, end - first} : Taps{0, 0};
}

const Window* make_windows(const LowerInput& in, int axis, int64_t positions, int64_t size) {
  const Op& op = in.op;
  std::vector<Window> result;
  for (int64_t p = 0; p < positions; ++p) {
    if (op.kind() == Kind::adaptive_avg_pool) {
      const int64_t begin = p * size / positions, end = ((p + 1) * size + positions - 1) / positions;
      result.push_back({int32_t(begin), int32_t(end - begin), int32_t(end - begin)});
      continue;
    }
    const Taps t = valid_taps(op, axis, p, size);
    const int64_t start = p * op.stride[axis] - op.padding[axis];
    const int64_t with_padding = std::min(start + op.kernel[axis], size + op.padding[axis]) - start;
    const int64_t extent = op.count_include_pad ? with_padding : t.count;
    result.push_back({int32_t(start + t.first * op.dilation[axis]), int32_t(t.count), int32_t(extent)});
  }
  return in.memory.copy(result);
}

Pool make_pool(const LowerInput& in) {
  const Op& op = in.op;
  Pool pool{};
  pool.input = in.layout(op.input());
  pool.rows = make_windows(in, 0, in.out.height, in.in.height);
  pool.cols = make_windows(in, 1, in.out.width, in.in.width);
  pool.dilation_y = int32_t(op.dilation[0]), pool.dilation_x = int32_t(op.dilation[1]);
  pool.average = op.kind() == Kind::avg_pool || op.kind() == Kind::adaptive_avg_pool;
  if (op.kind() == Kind::max_pool_bits) {
    uint16_t* mask = in.memory.make<uint16_t>(pool.input.pixel / 2);
    for (int64_t c = 0; op.and_mask && c < in.out.channels; ++c) {
      mask[c / 16] = uint16_t(mask[c / 16] | (op.and_mask[c / 64] >> c % 64 & 1) << c % 16);
    }
    pool.and_mask = mask;
  }
  pool.out = make_epilogue(in);
  return pool;
}

namespace {

// Windows of three columns, every other one, that pool_sums in kernels/bytes.inl can take the maxima of.
Columns pooled_columns(const Op& op, int64_t columns, int64_t windows) {
  if (op.kernel[1] != 3 || op.stride[1] != 2 || op.dilation[1] != 1) return Columns::all;
  if (op.padding[1] == 1 && windows == (columns + 1) / 2) return Columns::padded;
  return op.padding[1] == 0 && windows == (columns - 1) / 2 ? Columns::inside : Columns::all;
}

}  // namespace

// A rising function commutes with the maximum: f(max(a, b)) = max(f(a), f(b)). So a hinge with slopes that are not
// negative, and the clip, move from the convolution's epilogue to the pool's, which has fewer numbers, unless the
// pool's is needed for something else. Scale and bias stay: they may fall.
ConvPool make_conv_pool(const LowerInput& conv, const LowerInput& pool) {
  constexpr int64_t kAhead = 4;  // windows for which the buffer has room besides the first
  ConvPool fused{make_conv(conv), make_pool(pool), kNowhere, 0, 0, Columns::all};
  Epilogue &first = fused.conv.out, &then = fused.pool.out;
  const Op& op = pool.op;
  const auto rises = [&](const float* slopes) {
    return !slopes || *std::min_element(slopes, slopes + conv.padded) >= 0;
  };
  const bool free =
      !op.epilogue[BBG_SCALE] && !op.epilogue[BBG_BIAS] && op.shortcut == kNone && !then.above && !then.clip;
  if (free && rises(first.above) && rises(first.below)) {
    then.above = first.above, then.below = first.below, then.offset = first.offset;
    then.low = first.low, then.high = first.high, then.clip = first.clip;
    first.above = nullptr, first.clip = false;
  }
  fused.columns = pooled_columns(op, conv.out.width, pool.out.width);
  if (fused.columns != Columns::all) {
    const int32_t unread = fused.columns == Columns::inside;
    std::vector<Window> cols;
    for (int32_t x = 0; x < pool.out.width; ++x) cols.push_back({x + unread, 1, 1});
    fused.pool.cols = conv.memory.copy(cols);
    first.real.row = fused.pool.input.row = (conv.out.width + 1) / 2 * first.real.pixel;
  }
  first.real.image = fused.pool.input.image = 0;
  fused.rows = (op.kernel[0] - 1) * op.dilation[0] + 1 + kAhead * op.stride[0];
  fused.bytes = round_up(fused.rows * first.real.row, int64_t(kCacheLine));
  fused.buffer = conv.scratch.take(conv.members, fused.bytes);
  return fused;
}

}  // namespace bbg
