#include "lower/lower.h"

#include "lower/conv.h"
#include "plan/fusion.h"

namespace bbg {

int64_t scratch_bytes(const Graph& graph, const Op& op, const Layouts& layouts, const Kernels& kernels) {
  if (op.operands.empty()) return 0;
  const Value& out = graph.result_of(op);
  const Layout& input = layouts[size_t(op.input())];
  if (op.epilogue[BBG_SHIFT]) return out.height * out.width * op.groups * int64_t(sizeof(float));  // window sums
  const bool carry_save =
      op.kind() == Kind::binary_conv && choose_count_method(graph, op, input, kernels) == CountMethod::carry_save;
  return carry_save ? input.image : 0;  // parities
}

void lower(const Graph& graph, int index, const Layouts& layouts, Scratch& scratch, const Kernels& kernels,
           int64_t members, Memory& memory, StopRequest& stop, std::vector<KernelCall>& calls) {
  const Op& op = graph.ops[size_t(index)];
  if (op.operands.empty() || is_elided(graph, op) || fused_pool(graph, index) != kNone) return;
  const LowerInput in(graph, op, layouts, scratch, kernels, members, memory, stop);
  const int before = in.in.writer;
  if (before != kNone && fused_pool(graph, before) == index) {
    const LowerInput conv(graph, graph.ops[size_t(before)], layouts, scratch, kernels, members, memory, stop);
    calls.push_back({kernels.conv_pool, memory.copy(make_conv_pool(conv, in)), in.out.height, index});
  } else if (op.is_conv()) {
    lower_conv(in, index, calls);
  } else {
    lower_value(in, index, calls);
  }
}

}  // namespace bbg
