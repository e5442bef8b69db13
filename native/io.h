// Between the caller's arrays and the workspace: images in, values out.
#pragma once

#include <cstdint>
#include <vector>

#include "graph.h"
#include "kernels/kernels.h"
#include "plan/layout.h"

namespace bbg {

// Where the graph's input lies.
struct InputPort {
  Shape shape;
  Type type;
  Layout layout;
};

// A caller's images.
struct ImageBatch {
  bbg_input kind;
  const uint8_t* data;        // of the first image; any alignment
  const float *scale, *bias;  // byte b of channel c stands for scale[c] * b + bias[c]; null where nothing is converted

  size_t number_size() const { return kind == BBG_FLOAT_NCHW ? sizeof(float) : 1; }
  bool converts(Type input) const { return (kind == BBG_BYTE_NHWC) != (input == Type::bytes); }
};

// Writes the rows [begin, end) of the input, counted through all images. False if there is a NaN or an infinity among
// them.
bool write_input(const InputPort& port, const ImageBatch& images, uint8_t* workspace, int64_t begin, int64_t end);

// A part of an output: numbers of a value as three nested loops over its axes, outermost first.
struct OutputPart {
  Type type;
  Offset at;                 // of image 0
  int64_t image;             // bytes
  int64_t size[3], step[3];  // of each loop: how often, and bytes from one number to the next
  int channels;              // which loop goes over the channels, whose step bits do not have in bytes
};

struct OutputPort {
  std::vector<OutputPart> parts;
  int64_t numbers;  // per image
};

OutputPort output_port(const Graph& graph, const Output& output, const Layouts& layouts, const Kernels& kernels);

// Writes the numbers of image number `image` of the workspace to `to`, part by part.
void read_output(const OutputPort& port, const uint8_t* workspace, int64_t image, float* to);

}  // namespace bbg
