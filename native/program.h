// A graph compiled for one kernel set and one number of threads: kernel calls in order, over one workspace.
#pragma once

#include <vector>

#include "graph.h"
#include "kernels/kernels.h"
#include "lower/lower.h"
#include "memory.h"
#include "plan/costs.h"
#include "plan/layout.h"

namespace bbg {

struct Program {
  Memory constants, workspace;
  int64_t chunk = 1;  // images that go through the network together
  Layouts layouts;    // of the graph's values, and behind them of some that the plan added; bound to the workspace
  std::vector<KernelCall> calls;
};

// Throws InvalidArgument where the graph takes more than the limits allow.
Program compile(const Graph& graph, const Kernels& kernels, int members, const Limits& limits);

}  // namespace bbg
