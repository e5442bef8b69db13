#include "plan/fusion.h"

#include <algorithm>

namespace bbg {

bool is_elided(const Graph& graph, const Op& op) {
  if (op.kind() != Kind::match_channels || op.shortcut != kNone || op.is_clipped()) return false;
  if (op.real == kNone || op.bits != kNone || op.bytes != kNone) return false;
  if (std::any_of(op.epilogue.begin(), op.epilogue.end(), [](const auto& given) { return bool(given); })) return false;
  for (const Op& other : graph.ops) {
    if (other.has_operand(op.real)) return false;
  }
  const std::vector<int> outputs = graph.output_values();
  return std::find(outputs.begin(), outputs.end(), op.real) == outputs.end();
}

int stored_value(const Graph& graph, int value) {
  const int writer = value == kNone ? kNone : graph.values[size_t(value)].writer;
  return writer != kNone && is_elided(graph, graph.ops[size_t(writer)]) ? graph.ops[size_t(writer)].input() : value;
}

int fused_pool(const Graph& graph, int index) {
  const Op& op = graph.ops[size_t(index)];
  const bool real_only = op.real != kNone && op.bits == kNone && op.bytes == kNone;
  if (op.kind() != Kind::byte_conv || graph.is_depthwise(op) || !real_only || op.shortcut != kNone) return kNone;
  if (op.function_index != kNone) return kNone;
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
