#include "io.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace bbg {
namespace {

float float_at(const uint8_t* p) {
  float value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// Pixel 0 of a row of the input, counted through all images, between margins of zeros.
uint8_t* begin_row(const InputPort& port, uint8_t* workspace, int64_t row) {
  const Layout& layout = port.layout;
  uint8_t* to = workspace + layout.at + row / port.shape.height * layout.image + row % port.shape.height * layout.row;
  std::memset(to - layout.left, 0, size_t(layout.left));
  std::memset(to + port.shape.width * layout.pixel, 0, size_t(layout.right));
  return to;
}

// Where channel `channel` of a row begins in float NCHW images.
const uint8_t* plane_row(const InputPort& port, const ImageBatch& images, int64_t row, int64_t channel) {
  const int64_t n = row / port.shape.height, y = row % port.shape.height;
  const int64_t first = ((n * port.shape.channels + channel) * port.shape.height + y) * port.shape.width;
  return images.data + first * int64_t(sizeof(float));
}

// Bytes become the numbers they stand for.
void write_floats_from_bytes(const InputPort& port, const ImageBatch& images, uint8_t* workspace, int64_t row) {
  const int64_t channels = port.shape.channels, step = port.layout.pixel / int64_t(sizeof(float));
  float* pixels = reinterpret_cast<float*>(begin_row(port, workspace, row));
  for (int64_t c = 0; c < channels; ++c) {
    const uint8_t* from = images.data + row * port.shape.width * channels + c;
    for (int64_t x = 0; x < port.shape.width; ++x) {
      pixels[x * step + c] = images.scale[c] * float(from[x * channels]) + images.bias[c];
    }
  }
}

bool write_floats(const InputPort& port, const ImageBatch& images, uint8_t* workspace, int64_t row) {
  const int64_t step = port.layout.pixel / int64_t(sizeof(float));
  float* pixels = reinterpret_cast<float*>(begin_row(port, workspace, row));
  bool finite = true;
  for (int64_t c = 0; c < port.shape.channels; ++c) {
    const uint8_t* from = plane_row(port, images, row, c);
    for (int64_t x = 0; x < port.shape.width; ++x) {
      const float value = float_at(from + x * int64_t(sizeof(float)));
      finite &= bool(std::isfinite(value));
      pixels[x * step + c] = value;
    }
  }
  return finite;
}

void write_bytes(const InputPort& port, const ImageBatch& images, uint8_t* workspace, int64_t row, int64_t size) {
  const int64_t count = port.shape.width * port.shape.channels;
  const uint8_t* from = images.data + row * count;
  uint8_t* to = begin_row(port, workspace, row);
  if (size == 1) std::memcpy(to, from, size_t(count));
  for (int64_t i = 0; size == 2 && i < count; ++i) to[2 * i] = from[i], to[2 * i + 1] = 0;
}

// A number x becomes the byte next to (x - bias) / scale. Numbers are rounded many at a time, in a form that compilers
// turn into vectors: above 2^23 floats are integers, so that adding and subtracting it rounds, halves to even.
bool write_bytes_from_floats(const InputPort& port, const ImageBatch& images, uint8_t* workspace, int64_t row,
                             int64_t size) {
  constexpr int64_t many = 64;
  constexpr float rounds = 8388608.0f;
  uint8_t* to = begin_row(port, workspace, row);
  bool finite = true;
  for (int64_t c = 0; c < port.shape.channels; ++c) {
    const uint8_t* from = plane_row(port, images, row, c);
    const float bias = images.bias[c], scale = images.scale[c];
    for (int64_t begin = 0; begin < port.shape.width; begin += many) {
      const int64_t count = std::min(many, port.shape.width - begin);
      float values[many];
      int32_t bytes[many];
      std::memcpy(values, from + begin * int64_t(sizeof(float)), size_t(count) * sizeof(float));
      int32_t sound = 1;
      for (int64_t i = 0; i < count; ++i) {
        sound &= int32_t(std::fabs(values[i]) <= std::numeric_limits<float>::max());
        const float level = (values[i] - bias) / scale;
        const float least = level > 0.0f ? level : 0.0f;  // of a NaN too
        bytes[i] = int32_t((least < 255.0f ? least : 255.0f) + rounds - rounds);
      }
      finite &= sound != 0;
      uint8_t* at = to + begin * port.layout.pixel + c * size;
      for (int64_t i = 0; i < count; ++i, at += port.layout.pixel) {
        at[0] = uint8_t(bytes[i]);
        if (size == 2) at[1] = 0;
      }
    }
  }
  return finite;
}

// Numbers `count` apart by `step` bytes, as floats.
float* copy_reals(const uint8_t* from, int64_t count, int64_t step, float* to) {
  if (step == int64_t(sizeof(float))) {
    std::memcpy(to, from, size_t(count) * sizeof(float));
    return to + count;
  }
  for (int64_t i = 0; i < count; ++i) *to++ = *reinterpret_cast<const float*>(from + i * step);
  return to;
}

float* read_part(const OutputPart& part, const uint8_t* data, float* to) {
  const int64_t *size = part.size, *step = part.step;
  for (int64_t i = 0; i < size[0]; ++i) {
    for (int64_t j = 0; j < size[1]; ++j) {
      const uint8_t* from = data + i * step[0] + j * step[1];
      if (part.type == Type::real) {
        to = copy_reals(from, size[2], step[2], to);
      } else {
        for (int64_t k = 0; k < size[2]; ++k) *to++ = from[k * step[2]];
      }
    }
  }
  return to;
}

// The channels of a pixel are bits, so that their loop has no step in bytes.
float* read_bits(const OutputPart& part, const uint8_t* data, float* to) {
  int64_t at[3];
  for (at[0] = 0; at[0] < part.size[0]; ++at[0]) {
    for (at[1] = 0; at[1] < part.size[1]; ++at[1]) {
      for (at[2] = 0; at[2] < part.size[2]; ++at[2]) {
        const uint8_t* pixel = data + at[0] * part.step[0] + at[1] * part.step[1] + at[2] * part.step[2];
        const int64_t c = at[part.channels];
        *to++ = pixel[c / 8] >> c % 8 & 1 ? 1.0f : -1.0f;
      }
    }
  }
  return to;
}

// Makes one loop of the inner two as long as both walk the same way: channels of pixels without gaps are one run of
// numbers per row, and rows without margins one run per image.
void merge_loops(OutputPart& part) {
  for (int times = 0; times < 2; ++times) {
    if (part.step[1] != part.size[2] * part.step[2]) return;
    part.size[2] *= part.size[1];
    part.size[1] = part.size[0], part.step[1] = part.step[0];
    part.size[0] = 1;
  }
}

OutputPart output_part(const Value& value, const Layout& layout, const Part& given, const Kernels& kernels) {
  int64_t number = 0;  // bytes of one; bits have no step in bytes
  if (value.type == Type::real) number = sizeof(float);
  if (value.type == Type::bytes) number = kernels.byte_size;
  const int64_t size[3] = {value.channels, value.height, value.width}, step[3] = {number, layout.row, layout.pixel};
  OutputPart part{value.type, layout.at, layout.image, {}, {}, 0};
  for (size_t i = 0; i < given.order.size(); ++i) {
    const int axis = given.order[i];
    part.size[i] = size[axis], part.step[i] = step[axis];
    if (axis == 0) part.channels = int(i);
  }
  if (value.type != Type::bits) merge_loops(part);  // bits need the channel's number
  return part;
}

}  // namespace

bool write_input(const InputPort& port, const ImageBatch& images, uint8_t* workspace, int64_t begin, int64_t end) {
  const int64_t byte_size = port.layout.pixel / port.shape.channels;  // of a value of bytes, whose pixels have no gaps
  const bool floats = images.kind == BBG_FLOAT_NCHW;
  bool finite = true;
  for (int64_t row = begin; row < end; ++row) {
    if (port.type == Type::bytes && floats) {
      finite &= write_bytes_from_floats(port, images, workspace, row, byte_size);
    } else if (port.type == Type::bytes) {
      write_bytes(port, images, workspace, row, byte_size);
    } else if (floats) {
      finite &= write_floats(port, images, workspace, row);
    } else {
      write_floats_from_bytes(port, images, workspace, row);
    }
  }
  return finite;
}

OutputPort output_port(const Graph& graph, const Output& output, const Layouts& layouts, const Kernels& kernels) {
  OutputPort port{{}, output.numbers};
  for (const Part& part : output.parts) {
    port.parts.push_back(output_part(graph.values[size_t(part.value)], layouts[size_t(part.value)], part, kernels));
  }
  return port;
}

void read_output(const OutputPort& port, const uint8_t* workspace, int64_t image, float* to) {
  for (const OutputPart& part : port.parts) {
    const uint8_t* data = workspace + part.at + image * part.image;
    to = part.type == Type::bits ? read_bits(part, data, to) : read_part(part, data, to);
  }
}

}  // namespace bbg
