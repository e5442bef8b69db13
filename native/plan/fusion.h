// Ops that do not run as such, since the readers or the writers of their values do their work.
#pragma once

#include "graph.h"

namespace bbg {

// Whether `op` does not run because it only repeats its input's channels, or takes their means, for ops that add them
// as a shortcut: these do so as they read the input.
bool is_elided(const Graph& graph, const Op& op);

// The value that is read where `value` is a shortcut: the input of an elided op, else `value`, which may be kNone.
int stored_value(const Graph& graph, int value);

// Index of the max-pool that is fused into the int8 convolution `index`: rows are pooled while they are in the cache,
// and the convolution's result is never stored. kNone if the op is no such convolution or its result has another
// reader.
int fused_pool(const Graph& graph, int index);

}  // namespace bbg
