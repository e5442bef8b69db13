// How every value of a graph lies in memory.
#pragma once

#include <vector>

#include "graph.h"
#include "kernels/kernels.h"
#include "plan/joins.h"

namespace bbg {

constexpr int64_t kChunkImages = 16;  // most images that go through the network together

// Of each value of the graph.
using Layouts = std::vector<Layout>;

// The layout of every value for a kernel set, with margins as wide as the convolutions need them; they have no
// place yet.
Layouts assign_layouts(const Graph& graph, const Places& places, const Kernels& kernels);

}  // namespace bbg
