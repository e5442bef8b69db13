// From checked ops to kernel calls: weights are arranged as the kernels read them, borders and epilogues become tables.
#pragma once

#include <vector>

#include "graph.h"
#include "kernels/kernels.h"
#include "memory.h"
#include "plan/layout.h"
#include "stop.h"

namespace bbg {

// A kernel and what it works on. Its items are `rows` per image (one for all images with images_as_columns) for each of
// the `blocks` of channels. Whoever runs it asks between pieces of so many items whether it is still wanted.
struct KernelCall {
  KernelFunction run;
  const void* args;
  int64_t rows;
  int op;
  int64_t blocks = 1;
  bool images_as_columns = false;
  int64_t piece = INT64_MAX;
};

// The part of the workspace that an op has while it runs.
struct Scratch {
  Offset images;      // scratch_bytes() of each image of the chunk
  Offset members;     // buffers of the members of the team, from here to the end of the workspace
  int64_t taken = 0;  // bytes of these

  // A buffer of `bytes` for each member.
  Offset take(int64_t team, int64_t bytes) {
    const Offset at = members + taken;
    taken += team * bytes;
    return at;
  }
};

// What the lowering of one op reads, and the memory that takes its tables.
struct LowerInput {
  const Graph& graph;
  const Op& op;
  const Value &in, &out;  // the first operand and the result
  const Layouts& layouts;
  Scratch& scratch;  // the op's own part of the workspace
  const Kernels& kernels;
  int64_t members;  // of the team
  Memory& memory;
  StopRequest& stop;
  int64_t lanes, channels, padded;  // channels that the result stores, and the same rounded up to whole vectors

  LowerInput(const Graph& g, const Op& o, const Layouts& l, Scratch& s, const Kernels& k, int64_t team, Memory& m,
             StopRequest& wish)
      : graph(g),
        op(o),
        in(g.input_of(o)),
        out(g.result_of(o)),
        layouts(l),
        scratch(s),
        kernels(k),
        members(team),
        memory(m),
        stop(wish),
        lanes(k.lanes),
        channels(l[size_t(o.result())].channels),
        padded(round_up(channels, k.lanes)) {}

  Layout layout(int value) const { return value == kNone ? Layout{} : layouts[size_t(value)]; }
  int64_t group_of(int64_t channel) const { return channel / (out.channels / op.groups); }
  int64_t group_inputs() const { return in.channels / op.groups; }
};

// Bytes of scratch memory that an op needs per image.
int64_t scratch_bytes(const Graph& graph, const Op& op, const Layouts& layouts, const Kernels& kernels);

// Appends the kernel calls of op number `index`: none if it is elided, a move that went into others, a concatenation
// that is there already, or a convolution fused into a later pool.
// `layouts` are bound to places.
void lower(const Graph& graph, int index, const Layouts& layouts, Scratch& scratch, const Kernels& kernels,
           int64_t members, Memory& memory, StopRequest& stop, std::vector<KernelCall>& calls);

// ---- epilogue.cpp ---------------------------------------------------------------------------------------------------

Epilogue make_epilogue(const LowerInput& in);

// Channel c of a result is the mean of those of the `given` channels that are congruent to c modulo the result's: of
// one more for the first of them. For each, one over their number.
const float* mean_parts(const LowerInput& in, int64_t given);

// The epilogue for half the accumulator, as CountMethod::carry_save counts.
void halve_accumulator(const LowerInput& in, Epilogue& epilogue);

// ---- pool.cpp -------------------------------------------------------------------------------------------------------

// Taps of one output position that lie inside the map, in one direction (axis 0: vertical).
struct Taps {
  int64_t first, count;
};
Taps valid_taps(const Op& op, int axis, int64_t position, int64_t size);

// Of each of `positions` windows over `size` rows or columns.
const Window* make_windows(const LowerInput& in, int axis, int64_t positions, int64_t size);
Pool make_pool(const LowerInput& in);
ConvPool make_conv_pool(const LowerInput& conv, const LowerInput& pool);

// ---- values.cpp -----------------------------------------------------------------------------------------------------

void lower_value(const LowerInput& in, int index, std::vector<KernelCall>& calls);

}  // namespace bbg
