// Ops that do not run as such, since the readers or the writers of their values do their work.
#pragma once

#include "graph.h"

namespace bbg {

// If `op` only repeats its input's channels and its result is read only as a shortcut, the result need not hold them
// all: shortcut reads wrap modulo the stored channels, which are lcm(input channels, lanes), so that whole vectors can
// be loaded. Returns that number; 0 if the result must be stored in full.
int64_t stored_channels(const Graph& graph, const Op& op, int lanes);

// Whether such an op does not run at all: the input's own channels already fill whole vectors, so its readers read the
// input.
bool is_elided(const Graph& graph, const Op& op, int lanes);

// Index of the max-pool that is fused into the int8 convolution `index`: rows are pooled while they are in the cache,
// and the convolution's result is never stored. kNone if the op is no such convolution or its result has another
// reader.
int fused_pool(const Graph& graph, int index);

}  // namespace bbg
