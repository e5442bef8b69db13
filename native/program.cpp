#include "program.h"

#include <cstdlib>
#include <cstring>

#include "plan/buffers.h"
#include "plan/functions.h"
#include "plan/moves.h"

namespace bbg {
namespace {

// The memory of all values and scratch. In a guarded build (BBG_GUARDED) every stretch is an allocation of its own,
// which the address sanitizer watches, and holds garbage at first: the byte that the environment variable BBG_GARBAGE
// names. An answer that depends on it, or differs from that of the usual build, comes of reading what nobody wrote.
#ifdef BBG_GUARDED
class Workspace {
 public:
  Workspace(Memory& memory, int64_t) : memory_(memory) {}
  uint8_t* at(const Stretch& stretch) const {
    const char* garbage = std::getenv("BBG_GARBAGE");
    void* p = memory_.allocate(stretch.bytes, 1, false);
    std::memset(p, garbage ? std::atoi(garbage) : 0xFF, size_t(stretch.bytes));
    return static_cast<uint8_t*>(p);
  }

 private:
  Memory& memory_;
};
#else
class Workspace {
 public:
  // Not zeroed: so the system gives pages when they are first used.
  Workspace(Memory& memory, int64_t bytes) : base_(static_cast<uint8_t*>(memory.allocate(bytes, 1, false))) {}
  uint8_t* at(const Stretch& stretch) const { return base_ + stretch.offset; }

 private:
  uint8_t* base_;
};
#endif

}  // namespace

Program compile(const Graph& given, const Kernels& kernels, int members, const Limits& limits) {
  check_costs(given, limits);
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

  program.workspace = Memory(limits.memory);
  const Workspace workspace(program.workspace, plan.bytes);
  std::vector<uint8_t*> memory;  // each value's own
  for (const Stretch& stretch : plan.values) memory.push_back(workspace.at(stretch));
  for (size_t v = 0; v < layouts.size(); ++v) {
    Layout bound = layouts[v];
    bound.data = memory[size_t(plan.buffer[v])] + bound.left + bound.slice;
    program.layouts.push_back(bound);
  }
  program.constants = Memory(limits.memory, program.workspace.bytes());
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    lower(graph, int(i), program.layouts, workspace.at(plan.scratch[i]), kernels, members, program.constants,
          program.calls);
  }
  return program;
}

}  // namespace bbg
