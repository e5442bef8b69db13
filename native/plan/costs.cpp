#include "plan/costs.h"

#include <algorithm>
#include <string>

namespace bbg {
namespace {

constexpr int64_t kWide = 16;  // channels of a vector

double vectors(int64_t channels) { return double((channels + kWide - 1) / kWide); }

double positions(const Shape& shape) { return double(shape.height) * double(shape.width); }

// Channels that one step takes.
int64_t per_step(Kind kind) { return kind == Kind::binary_conv ? 32 : kind == Kind::byte_conv ? 4 : 1; }

// Steps for each vector of results of one position of a convolution: the words of its window. A block of filters reads
// the channels of all its groups.
double window_steps(const Graph& graph, const Op& op) {
  const double taps = double(op.taps());
  if (graph.is_depthwise(op)) return taps;
  const Shape &in = graph.input_of(op), &out = graph.result_of(op);
  const int64_t filters = out.channels / op.groups, groups = std::min(op.groups, 2 * kWide / filters + 1);
  const int64_t channels = in.channels / op.groups * groups, step = per_step(op.kind());
  const double window_sum = op.epilogue[BBG_SHIFT] ? double(in.channels) / 8 : 0;
  return taps * (double((channels + step - 1) / step) + window_sum);
}

std::string text(double number) { return std::to_string(int64_t(number)); }

}  // namespace

double operations_of(const Graph& graph, const Op& op) {
  const Shape &in = graph.input_of(op), &out = graph.result_of(op);
  const double results = positions(out) * vectors(out.channels);
  switch (op.kind()) {
    case Kind::conv:
    case Kind::byte_conv:
    case Kind::binary_conv: return results * window_steps(graph, op);
    case Kind::max_pool:
    case Kind::avg_pool:
    case Kind::max_pool_bits: return results * double(op.taps());
    case Kind::adaptive_avg_pool:  // windows overlap by up to a row and a column on either side
      return results * double(in.height / out.height + 2) * double(in.width / out.width + 2);
    case Kind::max_channels:
    case Kind::match_channels: return results + positions(out) * vectors(in.channels);
    case Kind::softmax:
    case Kind::log_softmax:
    case Kind::bilinear: return results * 4;
    case Kind::take: return results;
    case Kind::select: return positions(out) * double(out.channels);
    default: return results * double(op.operands.size() + 1);
  }
}

double operations_of(const Graph& graph) {
  double sum = positions(graph.values[0]) * vectors(graph.values[0].channels);
  for (const Op& op : graph.ops) sum += operations_of(graph, op) + positions(graph.result_of(op));
  for (const Output& output : graph.outputs) sum += double(output.numbers);
  return sum;
}

double table_bytes(const Graph& graph) {
  constexpr double kPerOp = 2048, kPerChannel = 256, kPerLine = 64, kPerOutput = 32;
  double sum = 0;
  for (const Op& op : graph.ops) {
    const Shape& out = graph.result_of(op);
    sum += kPerOp + kPerChannel * double(out.channels) + kPerLine * double(out.height + out.width);
    for (int v : op.operands) sum += kPerChannel * double(graph.values[size_t(v)].channels);
  }
  for (const Output& output : graph.outputs) sum += kPerOutput * double(output.numbers);
  return sum;
}

void check_costs(const Graph& graph, const Limits& limits) {
  if (const double operations = operations_of(graph); operations > double(limits.operations)) {
    throw InvalidArgument("an image takes " + text(operations) + " operations; limits.operations allows " +
                          std::to_string(limits.operations));
  }
  if (const double bytes = table_bytes(graph); bytes > double(limits.memory)) {
    throw InvalidArgument("the network's tables take " + text(bytes) + " bytes of memory; limits.memory allows " +
                          std::to_string(limits.memory));
  }
}

}  // namespace bbg
