// Concatenations as places in memory: operands that lie where the result has them need not be copied.
#pragma once

#include <vector>

#include "graph.h"

namespace bbg {

// Where a value lies: in the pixels of `value`, from `channel` on. Often that is the value itself.
struct Place {
  int value;
  int64_t channel;
};

// Of each value of the graph.
using Places = std::vector<Place>;
Places place_joins(const Graph& graph, int lanes);

// Whether `op` is a concatenation whose real result is there as soon as its operands are.
bool is_in_place(const Graph& graph, const Places& places, const Op& op);

// Channels of a pixel of each value that holds the values placed in it, and what their writers store beyond them.
std::vector<int64_t> joined_channels(const Graph& graph, const Places& places, int lanes);

}  // namespace bbg
