// Where values and scratch memory lie in the one workspace of an engine.
#pragma once

#include <cstdint>
#include <vector>

#include "graph.h"
#include "plan/layout.h"

namespace bbg {

struct BufferPlan {
  std::vector<int> buffer;              // of each value: the value in whose memory it lives, often its own
  std::vector<int64_t> value_offset;    // of each value's own memory, in bytes; read it at buffer[value]
  std::vector<int64_t> scratch_offset;  // of each op
  int64_t bytes;                        // in all
  int64_t chunk;                        // images that go through the network together
};

// `scratch`: bytes that each op needs per image while it runs.
BufferPlan plan_buffers(const Graph& graph, const Places& places, const Layouts& layouts,
                        const std::vector<int64_t>& scratch);

}  // namespace bbg
