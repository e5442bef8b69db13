#include "plan/fusion.h"

#include <algorithm>
#include <numeric>

namespace bbg {

int64_t stored_channels(const Graph& graph, const Op& op, int lanes) {
  const int64_t inputs = graph.input_of(op).channels;
  if (op.kind() != Kind::match_channels || op.shortcut != kNone || op.is_clipped()) return 0;
  if (op.real == kNone || op.bits != kNone || op.bytes != kNone) return 0;
  if (std::any_of(op.epilogue.begin(), op.epilogue.end(), [](const auto& given) { return bool(given); })) return 0;
  for (const Op& other : graph.ops) {
    if (other.has_operand(op.real)) return 0;
  }
  const std::vector<int> outputs = graph.output_values();
  if (std::find(outputs.begin(), outputs.end(), op.real) != outputs.end()) return 0;
  const int64_t period = std::lcm(inputs, int64_t(lanes)), channels = graph.values[size_t(op.real)].channels;
  return period < channels || (period == channels && period == inputs) ? period : 0;
}

bool is_elided(const Graph& graph, const Op& op, int lanes) {
  return stored_channels(graph, op, lanes) == graph.input_of(op).channels;
}

int fused_pool(const Graph& graph, int index) {
  const Op& op = graph.ops[size_t(index)];
  const bool real_only = op.real != kNone && op.bits == kNone && op.bytes == kNone;
  if (op.kind() != Kind::byte_conv || graph.is_depthwise(op) || !real_only || op.shortcut != kNone) return kNone;
  const std::vector<int> outputs = graph.output_values();
  int pool = kNone;
  auto readers = std::count(outputs.begin(), outputs.end(), op.real);
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& other = graph.ops[i];
    readers += std::count(other.operands.begin(), other.operands.end(), op.real) + (other.shortcut == op.real);
    if (other.kind() == Kind::max_pool && other.input() == op.real) pool = int(i);
  }
  return readers == 1 ? pool : kNone;
}

}  // namespace bbg
