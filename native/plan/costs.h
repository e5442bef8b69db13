// What a graph costs, told before anything is made for it.
#pragma once

#include <cstdint>

#include "graph.h"

namespace bbg {

// What an engine may take. bbg.h says what the numbers mean.
struct Limits {
  int64_t memory, operations;
};

// Vector operations that one image takes: a step of a kernel for kWide channels each. An estimate from above, within a
// small factor, for any kernel set with vectors of that width.
double operations_of(const Graph& graph);

// Those of one op.
double operations_of(const Graph& graph, const Op& op);

// Bytes of what the plan and the tables of the ops take besides weights and workspace, and the outputs of one image.
double table_bytes(const Graph& graph);

// Throws InvalidArgument where the graph needs more operations, or more memory for its tables, than allowed.
void check_costs(const Graph& graph, const Limits& limits);

}  // namespace bbg
