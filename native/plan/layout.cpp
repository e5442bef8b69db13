#include "plan/layout.h"

#include <algorithm>

#include "memory.h"
#include "plan/fusion.h"

namespace bbg {
namespace {

constexpr int64_t kImageLimit = (int64_t{1} << 31) - 1;  // offsets within an image have 32 bits

// Convolutions read numbers one by one, all others whole vectors of channels: only if convolutions alone read the input
// may its pixels lie side by side.
bool only_convs_read_input(const Graph& graph) {
  return std::none_of(graph.ops.begin(), graph.ops.end(),
                      [](const Op& op) { return op.shortcut == 0 || (op.has_operand(0) && !op.is_conv()); });
}

// Horizontally padded taps are read from the margins: as far as the first window reaches to the left of the map, and
// the last one to the right.
void widen_margins(Layout& layout, const Op& op, int64_t width, int64_t outputs) {
  const int64_t last = (outputs - 1) * op.stride[1] - op.padding[1] + (op.kernel[1] - 1) * op.dilation[1];
  layout.left = std::max(layout.left, op.padding[1] * layout.pixel);
  layout.right = std::max(layout.right, (last - (width - 1)) * layout.pixel);
}

// The layout of a value with its place in a join of numbers of `size` bytes.
Layout slice_of(Layout whole, const Place& place, const Layout& own, int64_t size) {
  whole.channels = own.channels;
  whole.slice = place.channel * size;
  return whole;
}

}  // namespace

Layouts assign_layouts(const Graph& graph, const Places& places, const Kernels& kernels) {
  Layouts layouts(graph.values.size());
  const auto number_size = [&](const Value& v) {
    return v.type == Type::real ? int64_t(sizeof(float)) : kernels.byte_size;
  };
  const std::vector<int64_t> joined = joined_channels(graph, places, kernels.lanes);
  for (size_t v = 0; v < layouts.size(); ++v) {
    const Value& value = graph.values[v];
    layouts[v].channels = value.channels;
    if (value.type == Type::bits) {
      layouts[v].pixel = value.channels <= 16 ? 2 : round_up(value.channels, 32) / 8;
    } else {
      layouts[v].pixel = joined[v] * number_size(value);
    }
  }
  if (only_convs_read_input(graph)) layouts[0].pixel = graph.values[0].channels * number_size(graph.values[0]);
  for (const Op& op : graph.ops) {
    if (!op.is_conv()) continue;
    Layout& whole = layouts[size_t(places[size_t(op.input())].value)];
    widen_margins(whole, op, graph.input_of(op).width, graph.result_of(op).width);
  }
  for (size_t v = 0; v < layouts.size(); ++v) {
    Layout& layout = layouts[v];
    const Value& value = graph.values[v];
    layout.row = layout.left + value.width * layout.pixel + layout.right;
    if (layout.row > kImageLimit / value.height) throw InvalidArgument("a value takes more than 2 GiB per image");
    layout.image = layout.row * value.height;
  }
  for (size_t v = 0; v < layouts.size(); ++v) {
    if (places[v].value == int(v)) continue;
    layouts[v] = slice_of(layouts[size_t(places[v].value)], places[v], layouts[v], number_size(graph.values[v]));
  }
  for (const Op& op : graph.ops) {
    if (is_elided(graph, op)) layouts[size_t(op.real)] = layouts[size_t(op.input())];
  }
  return layouts;
}

}  // namespace bbg
