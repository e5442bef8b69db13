// Functions that convolutions compute behind their own epilogue.
#pragma once

#include "graph.h"

namespace bbg {

// Gives a convolution of numbers the `unary` op that alone reads its real result, which is its only one:
// Op::function_index and the results of that op, which then has no operands and does not run.
void fuse_functions(Graph& graph);

}  // namespace bbg
