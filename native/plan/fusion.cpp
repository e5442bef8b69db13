#include "plan/fusion.h"

#include <algorithm>

namespace bbg {

bool is_elided(const Graph& graph, const Op& op) {
  if (op.kind() != Kind::match_channels || op.shortcut != kNone || op.is_clipped()) return false;
  if (op.real == kNone || op.bits != kNone || op.bytes != kNone) return false;
  if (std::any_of(op.epilogue.begin(), op.epilogue.end(), [](const auto& given) { return bool(given); })) return false;
  const Value& result = graph.values[size_t(op.real)];
  return result.readers.empty() && !result.is_output;
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
  const int reader = graph.values[size_t(op.real)].only_reader();
  return reader != kNone && graph.ops[size_t(reader)].kind() == Kind::max_pool ? reader : kNone;
}

}  // namespace bbg
