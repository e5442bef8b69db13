// Where values and scratch memory lie in a workspace.
#pragma once

#include <cstdint>
#include <vector>

#include "graph.h"
#include "plan/layout.h"

namespace bbg {

// A stretch of the workspace.
struct Stretch {
  int64_t offset, bytes;
};

struct BufferPlan {
  std::vector<int> buffer;       // of each value: the value in whose memory it lives, often its own
  std::vector<Stretch> values;   // each value's own memory; read it at buffer[value]
  std::vector<Stretch> scratch;  // of each op
  int64_t bytes;                 // in all
  int64_t chunk;                 // images that go through the network together
};

// `scratch`: bytes that each op needs per image while it runs.
BufferPlan plan_buffers(const Graph& graph, const Places& places, const Layouts& layouts,
                        const std::vector<int64_t>& scratch);

}  // namespace bbg
