#include "program.h"

#include "plan/buffers.h"
#include "plan/functions.h"
#include "plan/moves.h"

namespace bbg {

Program compile(const Graph& given, const Kernels& kernels, int members) {
  Program program;
  Graph fused = given;
  fuse_functions(fused);
  const Graph graph = plan_moves(fused);
  const Places places = place_joins(graph, kernels.lanes);
  const Layouts layouts = assign_layouts(graph, places, kernels);
  std::vector<int64_t> scratch;
  for (const Op& op : graph.ops) scratch.push_back(scratch_bytes(graph, op, layouts, kernels));
  const BufferPlan plan = plan_buffers(graph, places, layouts, scratch);
  program.chunk = plan.chunk;

  // Not zeroed: so the system gives pages when they are first used.
  auto* base = static_cast<uint8_t*>(program.workspace.allocate(plan.bytes, 1, false));
  for (size_t v = 0; v < layouts.size(); ++v) {
    Layout bound = layouts[v];
    bound.data = base + plan.value_offset[size_t(plan.buffer[v])] + bound.left + bound.slice;
    program.layouts.push_back(bound);
  }
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    lower(graph, int(i), program.layouts, base + plan.scratch_offset[i], kernels, members, program.constants,
          program.calls);
  }
  return program;
}

}  // namespace bbg
