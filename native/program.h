// A graph compiled for one kernel set and one number of threads: kernel calls in order, for any number of workspaces.
#pragma once

#include <vector>

#include "graph.h"
#include "kernels/kernels.h"
#include "lower/lower.h"
#include "memory.h"
#include "plan/buffers.h"
#include "plan/costs.h"
#include "plan/layout.h"
#include "stop.h"

namespace bbg {

struct Program {
  Memory constants;
  int64_t workspace = 0;           // bytes of one
  std::vector<Stretch> stretches;  // of a workspace, all that are used
  int64_t chunk = 1;               // images that go through the network together
  Layouts layouts;  // of the graph's values, and behind them of some that the plan added; each with its place
  std::vector<KernelCall> calls;
};

// Throws InvalidArgument where the graph takes more than the limits allow, and where the caller wants no more.
Program compile(const Graph& graph, const Kernels& kernels, int members, const Limits& limits, StopRequest& stop);

// The memory of all values and scratch of one call at a time.
//
// In a guarded build (BBG_GUARDED) nothing shares memory, the address sanitizer watches the gaps between what is used,
// and all of it holds garbage at first: the byte that the environment variable BBG_GARBAGE names. An answer that
// depends on it, or differs from that of the usual build, comes of reading what nobody wrote.
uint8_t* make_workspace(const Program& program, Memory& memory);

}  // namespace bbg
