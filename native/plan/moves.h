// Ops that only move channels: they go into those that read them, and as bytes wherever bytes are all that is read.
#pragma once

#include "graph.h"

namespace bbg {

// Whether the result of `op` is what it computes: no shortcut, no clip, no parameter of the epilogue but those of bits
// and bytes.
bool is_plain(const Op& op);

// The same graph with fewer and narrower moves. Its values and ops have the same numbers; new values follow. An op that
// went into its readers has neither operands nor results left.
Graph plan_moves(const Graph& graph);

}  // namespace bbg
