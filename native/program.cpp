#include "program.h"

#include <algorithm>

#include "plan/functions.h"
#include "plan/moves.h"

#ifdef BBG_GUARDED
#include <sanitizer/asan_interface.h>

#include <cstdlib>
#include <cstring>
#endif

namespace bbg {
namespace {

#ifdef BBG_GUARDED
constexpr int64_t kGap = 2048;  // between what is used

// Gives every value and scratch memory of its own.
void spread(BufferPlan& plan) {
  plan.bytes = kGap;
  for (std::vector<Stretch>* stretches : {&plan.values, &plan.scratch}) {
    for (Stretch& stretch : *stretches) {
      stretch.offset = plan.bytes;
      plan.bytes += round_up(stretch.bytes, int64_t(kCacheLine)) + kGap;
    }
  }
}
#else
constexpr int64_t kGap = 0;

void spread(BufferPlan&) {}
#endif

// Cuts calls of so many operations per image into pieces of some milliseconds.
void cut(std::vector<KernelCall>& calls, size_t first, double operations, int64_t images) {
  constexpr double kPiece = 4e6;  // operations
  for (size_t i = first; i < calls.size(); ++i) {
    KernelCall& call = calls[i];
    const double together = call.images_as_columns ? double(images) : 1;  // images of an item
    const double of_item = operations * together / double(call.rows * call.blocks);
    if (of_item > 0) call.piece = int64_t(std::min(std::max(kPiece / of_item, 1.0), 1e9));
  }
}

}  // namespace

Program compile(const Graph& given, const Kernels& kernels, int members, const Limits& limits, StopRequest& stop) {
  check_costs(given, limits);
  Program program;
  Graph fused = given;
  fuse_functions(fused);
  const Graph graph = plan_moves(fused);
  const Places places = place_joins(graph, kernels.lanes);
  const Layouts layouts = assign_layouts(graph, places, kernels);
  std::vector<int64_t> scratch;
  for (const Op& op : graph.ops) scratch.push_back(scratch_bytes(graph, op, layouts, kernels));
  BufferPlan plan = plan_buffers(graph, places, layouts, scratch);
  spread(plan);
  program.chunk = plan.chunk;
  for (size_t v = 0; v < layouts.size(); ++v) {
    Layout placed = layouts[v];
    placed.at = plan.values[size_t(plan.buffer[v])].offset + placed.left + placed.slice;
    program.layouts.push_back(placed);
  }
  program.constants = Memory(limits.memory, plan.bytes);
  int64_t buffers = 0;    // of the team's members: one op needs them at a time
  double operations = 0;  // of this op, and of those before it that it does too
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    stop.check();
    Scratch own{plan.scratch[i].offset, plan.bytes};
    const size_t before = program.calls.size();
    lower(graph, int(i), program.layouts, own, kernels, members, program.constants, stop, program.calls);
    if (!graph.ops[i].operands.empty()) operations += operations_of(graph, graph.ops[i]);
    if (program.calls.size() > before) {
      cut(program.calls, before, operations, plan.chunk);
      operations = 0;
    }
    buffers = std::max(buffers, own.taken);
  }
  program.stretches = plan.values;
  program.stretches.insert(program.stretches.end(), plan.scratch.begin(), plan.scratch.end());
  program.stretches.push_back({plan.bytes, buffers});
  program.workspace = plan.bytes + buffers + kGap;
  return program;
}

#ifdef BBG_GUARDED
uint8_t* make_workspace(const Program& program, Memory& memory) {
  auto* base = static_cast<uint8_t*>(memory.allocate(program.workspace, 1, false));
  const char* garbage = std::getenv("BBG_GARBAGE");
  std::memset(base, garbage ? std::atoi(garbage) : 0xFF, size_t(program.workspace));
  ASAN_POISON_MEMORY_REGION(base, size_t(program.workspace));
  for (const Stretch& stretch : program.stretches) {
    ASAN_UNPOISON_MEMORY_REGION(base + stretch.offset, size_t(stretch.bytes));
  }
  return base;
}
#else
// Not zeroed: so the system gives pages when they are first used.
uint8_t* make_workspace(const Program& program, Memory& memory) {
  return static_cast<uint8_t*>(memory.allocate(program.workspace, 1, false));
}
#endif

}  // namespace bbg
