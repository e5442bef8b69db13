// Convolutions: which taps count where, blocks of filters, and tables for borders. The weights are arranged in
// conv_*.cpp.
//
// A padded tap adds 0. Vertically, taps beside the map are skipped: ConvRow says which tap rows count. Horizontally,
// they are read from the zeroed margins. In a convolution of real numbers or bytes a zero adds nothing. In one of bits
// a zero bit means -1, so each padded tap adds the tap's weights times -1; tables of start values take that back. Per
// output position, all depends only on which taps are inside the map: positions with the same valid taps form a border
// class.
//
//   row classes x column classes, 3x3, padding 1:      base[row class][column class][channel]
//
//      top left | top    | top right
//      left     | inside | right
//      ...
#include "lower/conv.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

namespace bbg {
namespace {

// Output positions along one axis with the same valid taps share a class.
struct BorderClasses {
  std::vector<Taps> taps;   // of each class
  std::vector<int32_t> of;  // of each position
};

BorderClasses classify(const Op& op, int axis, int64_t positions, int64_t size) {
  BorderClasses result;
  std::map<std::pair<int64_t, int64_t>, int32_t> known;
  for (int64_t p = 0; p < positions; ++p) {
    const Taps t = valid_taps(op, axis, p, size);
    const auto [entry, fresh] = known.emplace(std::pair(t.first, t.count), int32_t(result.taps.size()));
    if (fresh) result.taps.push_back(t);
    result.of.push_back(entry->second);
  }
  return result;
}

const ConvRow* make_rows(const LowerInput& in, const BorderClasses& classes, int64_t input_row) {
  std::vector<ConvRow> rows;
  for (int64_t y = 0; y < in.out.height; ++y) {
    const int32_t border_class = classes.of[size_t(y)];
    const Taps t = classes.taps[size_t(border_class)];
    const int64_t top = t.count ? y * in.op.stride[0] - in.op.padding[0] + t.first * in.op.dilation[0] : 0;
    rows.push_back({top * input_row, int32_t(t.first), int32_t(t.count), border_class});
  }
  return in.memory.copy(rows);
}

// A result of one pixel per image whose images follow each other: then the images of a chunk can be the columns of a
// row.
bool can_take_images_as_columns(const LowerInput& in, const Epilogue& e) {
  const auto dense = [](const Layout& l) { return l.at == kNowhere || l.image == l.pixel; };
  return in.op.kind() != Kind::conv && !can_stack_taps(in) && in.out.height * in.out.width == 1 && dense(e.real) &&
         dense(e.bits) && dense(e.bytes) && dense(e.shortcut);
}

std::vector<ConvBlock> make_blocks(const LowerInput& in, CountMethod method) {
  // A block computes with the channels of all its groups: where groups are no wider than a vector, one vector per block
  // means half as many.
  const bool multiplies = in.op.kind() != Kind::binary_conv, stacks = can_stack_taps(in);
  const bool own_channel = stacks || (in.op.kind() == Kind::conv && in.graph.is_depthwise(in.op));
  const bool narrow_groups =
      multiplies && !own_channel && in.op.groups > 1 && in.out.channels / in.op.groups <= in.lanes;
  const int64_t vectors = method == CountMethod::lookup4 ? kLookupFilters / in.lanes : narrow_groups ? 1 : 2;
  std::vector<ConvBlock> result;
  for (int64_t c = 0; c < in.padded; c += vectors * in.lanes) {
    ConvBlock block{};
    block.channel = int32_t(c);
    block.vectors = int32_t(std::min(vectors, (in.padded - c) / in.lanes));
    result.push_back(block);
  }
  return result;
}

// Set bits of each filter's taps: [tap][channel].
std::vector<int32_t> count_ones(const LowerInput& in) {
  const int64_t taps = in.op.taps(), inputs = in.group_inputs(), channels = in.out.channels;
  std::vector<int32_t> ones(size_t(taps * channels));
  for (int64_t o = 0; o < channels; ++o) {
    for (int64_t t = 0; t < taps; ++t) {
      int32_t& sum = ones[size_t(t * channels + o)];
      for (int64_t c = 0; c < inputs; c += 32) {
        sum += __builtin_popcount(filter_bits(in, o, t * inputs + c, std::min<int64_t>(32, inputs - c)));
      }
    }
  }
  return ones;
}

// Sums over rectangles of taps in constant time, for one channel at a time:
//
//   at(y, x) = sum of the taps above row y and left of column x
//   sum over rows [y, y + h) and columns [x, x + w) = at(y + h, x + w) - at(y, x + w) - at(y + h, x) + at(y, x)
template <class Sum>
class TapSums {
 public:
  TapSums(int64_t rows, int64_t columns) : rows_(rows), width_(columns + 1), sums_(size_t((rows + 1) * width_)) {}

  // `taps`: [row][column][channel].
  template <class T>
  void take(const T* taps, int64_t channels, int64_t channel) {
    for (int64_t y = 0; y < rows_; ++y) {
      Sum row = 0;
      for (int64_t x = 0; x + 1 < width_; ++x) {
        row += Sum(taps[(y * (width_ - 1) + x) * channels + channel]);
        sums_[size_t((y + 1) * width_ + x + 1)] = at(y, x + 1) + row;
      }
    }
  }
  Sum sum(const Taps& rows, const Taps& columns) const {
    const int64_t top = rows.first, end = top + rows.count, left = columns.first, right = left + columns.count;
    return at(end, right) - at(top, right) - at(end, left) + at(top, left);
  }

 private:
  Sum at(int64_t y, int64_t x) const { return sums_[size_t(y * width_ + x)]; }

  int64_t rows_, width_;
  std::vector<Sum> sums_;
};

// Start values and biases of every border class. With K bits under valid taps, differing bits D among them, and B set
// weight bits under the horizontally padded taps that are read all the same (their activations are 0, so each set bit
// differs):
//
//   acc = K - 2 D = K + 2 B - 2 (D + B) = base - 2 popcount        with base = K + 2 B
void make_border_tables(const LowerInput& in, Conv& conv, const BorderClasses& rows, const BorderClasses& cols) {
  const Op& op = in.op;
  const int64_t inputs = in.group_inputs(), channels = in.out.channels;
  const Taps all_columns{0, op.kernel[1]};
  const int64_t size = int64_t(rows.taps.size()) * conv.class_row;
  int32_t* base = in.memory.make<int32_t>(size);
  float* bias = op.tap_bias ? in.memory.make<float>(size) : nullptr;
  const bool counts = op.kind() == Kind::binary_conv;
  const std::vector<int32_t> ones = counts ? count_ones(in) : std::vector<int32_t>();
  TapSums<int64_t> set(op.kernel[0], op.kernel[1]);
  TapSums<double> added(op.kernel[0], op.kernel[1]);
  for (int64_t o = 0; o < channels; ++o) {
    if (counts) set.take(ones.data(), channels, o);
    if (bias) added.take(op.tap_bias.data, channels, o);
    int64_t at = o;
    for (const Taps& r : rows.taps) {
      for (const Taps& c : cols.taps) {
        const int64_t padded_ones = set.sum(r, all_columns) - set.sum(r, c);
        const auto whole = uint32_t(r.count * c.count * inputs + 2 * padded_ones);
        base[at] = int32_t(conv.method == CountMethod::carry_save ? whole / 2 : whole);
        if (bias) bias[at] = float(double(conv.out.bias[o]) + added.sum(r, c));
        at += in.padded;
      }
    }
  }
  conv.base = base;
  conv.class_bias = bias;
}

}  // namespace

BlockRange block_range(const LowerInput& in, const ConvBlock& block) {
  const int64_t last = std::min(block.channel + block.vectors * in.lanes, in.out.channels) - 1;
  const int64_t inputs = in.group_inputs(), from = in.group_of(block.channel) * inputs;
  return {last, from, (in.group_of(last) + 1) * inputs - from};
}

const int32_t* make_offsets(const LowerInput& in, const Conv& conv, int64_t first, int64_t items, int64_t step,
                            int64_t taps_per_item) {
  const Op& op = in.op;
  std::vector<int32_t> table;
  for (int64_t ky = 0; ky < op.kernel[0]; ++ky) {
    const int64_t row = ky * op.dilation[0] * conv.input.row;
    for (int64_t kx = 0; kx < op.kernel[1]; kx += taps_per_item) {
      const int64_t tap = row + kx * op.dilation[1] * conv.input.pixel + first;
      for (int64_t i = 0; i < items; ++i) {
        // Rows outside of every map are never read.
        table.push_back(row < conv.input.image ? int32_t(tap + i * step) : 0);
      }
    }
  }
  return in.memory.copy(table);
}

Conv make_conv(const LowerInput& in) {
  const Op& op = in.op;
  const BorderClasses rows = classify(op, 0, in.out.height, in.in.height);
  const BorderClasses cols = classify(op, 1, in.out.width, in.in.width);
  if (in.padded > std::numeric_limits<int32_t>::max() / int64_t(cols.taps.size())) {
    throw InvalidArgument("a convolution is too large");
  }
  Conv conv{};
  conv.input = in.layout(op.input());
  conv.rows = make_rows(in, rows, conv.input.row);
  conv.origin = -op.padding[1] * conv.input.pixel;
  conv.column = op.stride[1] * conv.input.pixel;
  conv.next = op.dilation[1] * conv.input.pixel;
  conv.below = op.dilation[0] * conv.input.row;
  conv.class_row = in.padded * int64_t(cols.taps.size());
  conv.out = make_epilogue(in);
  std::vector<int32_t> borders = cols.of;
  for (int32_t& b : borders) b = int32_t(b * in.padded);
  if (can_take_images_as_columns(in, conv.out)) {
    conv.images_as_columns = true;
    conv.column = conv.input.image;
    borders.resize(size_t(kChunkImages));
  }
  conv.column_border = in.memory.copy(borders);
  std::vector<int32_t> run(borders.size(), 1);
  for (size_t x = run.size() - 1; x-- > 0;) run[x] += borders[x] == borders[x + 1] ? run[x + 1] : 0;
  conv.column_run = in.memory.copy(run);

  if (op.kind() == Kind::binary_conv) conv.method = choose_count_method(in.graph, op, conv.input, in.kernels);
  if (op.kind() == Kind::byte_conv) conv.method = CountMethod::int8;
  std::vector<ConvBlock> blocks = make_blocks(in, conv.method);
  if (op.kind() == Kind::conv) {
    in.graph.is_depthwise(op) ? arrange_depthwise(in, conv, blocks) : arrange_floats(in, conv, blocks);
  } else {
    if (op.kind() == Kind::binary_conv) {
      arrange_bits(in, conv, blocks);
    } else {
      can_stack_taps(in) ? stack_taps(in, conv, blocks) : arrange_bytes(in, conv, blocks);
    }
    make_border_tables(in, conv, rows, cols);
    if (conv.method == CountMethod::carry_save) halve_accumulator(in, conv.out);
  }
  conv.blocks = in.memory.copy(blocks);
  conv.block_count = int32_t(blocks.size());
  return conv;
}

void lower_conv(const LowerInput& in, int index, std::vector<KernelCall>& calls) {
  const Op& op = in.op;
  if (op.epilogue[BBG_SHIFT]) {
    const WindowSum sum{in.layout(op.input()),
                        make_windows(in, 0, in.out.height, in.in.height),
                        make_windows(in, 1, in.out.width, in.in.width),
                        op.dilation[0],
                        op.dilation[1],
                        in.group_inputs(),
                        in.out.height,
                        in.out.width,
                        op.groups,
                        in.scratch.images};
    calls.push_back({in.kernels.window_sum, in.memory.copy(sum), in.out.height, index});
  }
  const Conv conv = make_conv(in);
  if (conv.method == CountMethod::carry_save) {
    const Layout& input = conv.input;
    const Parity parity{input.at - input.left, in.scratch.images, input.image, input.row, conv.next, in.in.height};
    calls.push_back({in.kernels.parity, in.memory.copy(parity), in.in.height, index});
  }
  if (conv.stacked.columns || (op.kind() == Kind::conv && in.graph.is_depthwise(op))) {
    const KernelFunction run = conv.stacked.columns ? in.kernels.depthwise_bytes : in.kernels.depthwise;
    calls.push_back({run, in.memory.copy(conv), in.out.height * conv.block_count, index});
    return;
  }
  const KernelFunction run = op.kind() == Kind::conv ? in.kernels.conv : in.kernels.binary_conv;
  const int64_t together = std::max(conv.tiles.rows, 1), rows = (in.out.height + together - 1) / together;
  const int64_t blocks = conv.block_count / std::max(conv.tiles.blocks, 1);
  calls.push_back({run, in.memory.copy(conv), rows, index, blocks, conv.images_as_columns});
}

}  // namespace bbg
