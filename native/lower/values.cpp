// Ops that compute pixel by pixel, and the choice of the kernel for all that are no convolutions.
#include <algorithm>
#include <cstring>

#include "lower/lower.h"

namespace bbg {
namespace {

// Where each channel of a concatenation, a selection or a repetition comes from: the number of the operand, and its
// channel.
std::vector<Source> sources_of(const LowerInput& in) {
  const Op& op = in.op;
  if (!op.sources.empty()) return op.sources;
  std::vector<Source> sources;
  for (size_t i = 0; i < op.operands.size(); ++i) {
    const int64_t given = in.graph.values[size_t(op.operands[i])].channels;
    const int64_t taken = op.kind() == Kind::concat ? given : in.channels;
    for (int64_t c = 0; c < taken; ++c) {
      sources.push_back({int(i), op.kind() == Kind::select ? op.index[c] : int32_t(c % given)});
    }
  }
  return sources;
}

// The pieces of a gather, for vectors of `width` channels.
struct Pieces {
  std::vector<Piece> pieces;
  std::vector<int32_t> lanes, first;
};

// Each vector of the result is cut into the fewest pieces: the first begins at the least channel of an input that a
// lane needs, and serves all lanes that it can. No piece reaches beyond an input's whole vectors.
Pieces cut(const LowerInput& in, const std::vector<Source>& sources, size_t width) {
  Pieces result;
  for (size_t from = 0; from < sources.size(); from += width) {
    result.first.push_back(int32_t(result.pieces.size()));
    std::vector<Source> left(sources.begin() + int64_t(from),
                             sources.begin() + int64_t(std::min(from + width, sources.size())));
    const auto done = [](const Source& s) { return s.from == kNone; };
    const auto before = [&](const Source& a, const Source& b) {
      return !done(a) && (done(b) || a.from < b.from || (a.from == b.from && a.channel < b.channel));
    };
    for (;;) {
      const Source least = *std::min_element(left.begin(), left.end(), before);
      if (done(least)) break;
      const int64_t channels = in.graph.values[size_t(in.op.operands[size_t(least.from)])].channels;
      const int32_t last = int32_t(round_up(channels, int64_t(width)) - int64_t(width));
      const Piece piece{least.from, std::min(least.channel, last)};
      const size_t row = result.lanes.size();
      result.lanes.resize(row + width, kNone);
      for (size_t i = 0; i < left.size(); ++i) {
        const int32_t lane = left[i].channel - piece.channel;
        if (left[i].from != piece.input || lane >= int32_t(width)) continue;
        result.lanes[row + i] = lane;
        left[i].from = kNone;
      }
      result.pieces.push_back(piece);
    }
  }
  result.first.push_back(int32_t(result.pieces.size()));
  return result;
}

const Layout* operand_layouts(const LowerInput& in) {
  std::vector<Layout> inputs;
  for (int v : in.op.operands) inputs.push_back(in.layout(v));
  return in.memory.copy(inputs);
}

Gather make_gather(const LowerInput& in, const std::vector<Source>& sources) {
  const Pieces cuts = cut(in, sources, size_t(in.lanes));
  return {operand_layouts(in), in.memory.copy(cuts.pieces), in.memory.copy(cuts.lanes), in.memory.copy(cuts.first),
          make_epilogue(in)};
}

bool has_bytes(const LowerInput& in) { return in.in.type == Type::bytes; }

// The same in bytes: of a number, all follow each other.
GatherBytes make_gather_bytes(const LowerInput& in) {
  const int64_t size = in.kernels.byte_size;
  Pieces cuts = cut(in, sources_of(in), size_t(in.kernels.moved_bytes / size));
  for (Piece& piece : cuts.pieces) piece.channel = int32_t(piece.channel * size);
  std::vector<uint8_t> lanes;
  for (int32_t lane : cuts.lanes) {
    for (int64_t b = 0; b < size; ++b) lanes.push_back(lane == kNone ? kNoByte : uint8_t(lane * size + b));
  }
  const int64_t bytes = round_up(in.out.channels, in.lanes) * size;
  return {operand_layouts(in),        in.memory.copy(cuts.pieces), in.memory.copy(lanes),
          in.memory.copy(cuts.first), in.layout(in.op.bytes),      int32_t(bytes),
          int32_t(in.out.height),     int32_t(in.out.width)};
}

// Whether the result of a concatenation is there as soon as its operands are (plan/joins.cpp).
bool is_joined(const LowerInput& in) {
  const int joined = has_bytes(in) ? in.op.bytes : in.op.real;
  if (joined == kNone || !in.op.sources.empty()) return false;
  const int64_t size = has_bytes(in) ? in.kernels.byte_size : int64_t(sizeof(float));
  const Layout whole = in.layout(joined);
  int64_t channel = 0;
  for (int v : in.op.operands) {
    if (in.layout(v).at != whole.at + channel * size) return false;
    channel += in.graph.values[size_t(v)].channels;
  }
  return true;
}

// What is left to do then: bits and bytes, from the real result.
Match make_rest(const LowerInput& in) {
  Match match{in.layout(in.op.real), int32_t(in.channels), nullptr, make_epilogue(in)};
  match.out.real = {};
  return match;
}

Match make_match(const LowerInput& in) {
  const float* part = mean_parts(in, in.in.channels);
  return {in.layout(in.op.input()), int32_t(in.in.channels), part, make_epilogue(in)};
}

// Phase (i, j) takes the channels from (i stride_x + j) C on; its vectors begin anew.
DepthToSpace make_depth_to_space(const LowerInput& in) {
  const int64_t phases = in.op.stride[0] * in.op.stride[1], padded = round_up(in.out.channels, in.lanes);
  std::vector<Source> sources;
  for (int64_t phase = 0; phase < phases; ++phase) {
    for (int64_t c = 0; c < padded; ++c) {
      const bool stays = c >= in.out.channels;
      sources.push_back({stays ? kNone : 0, stays ? 0 : int32_t(phase * in.out.channels + c)});
    }
  }
  return {make_gather(in, sources), int32_t(in.op.stride[0]), int32_t(in.op.stride[1]), int32_t(padded / in.lanes)};
}

// Where torch samples: the middles of the pixels lie above each other, or, with `align_corners`, the outermost pixels
// do. It computes in float32, and so does this, as the place says which share a number has.
const Between* make_between(const LowerInput& in, int64_t have, int64_t want) {
  const bool corners = in.op.align_corners;
  const float scale = corners ? (want > 1 ? float(have - 1) / float(want - 1) : 0) : float(have) / float(want);
  std::vector<Between> result;
  for (int64_t i = 0; i < want; ++i) {
    const float place = corners ? scale * float(i) : std::max(scale * (float(i) + 0.5f) - 0.5f, 0.0f);
    const int64_t first = std::min(int64_t(place), have - 1);
    const float share = std::min(std::max(place - float(first), 0.0f), 1.0f);
    result.push_back({int32_t(first), int32_t(first + 1 < have), share});
  }
  return in.memory.copy(result);
}

Bilinear make_bilinear(const LowerInput& in) {
  return {in.layout(in.op.input()), make_between(in, in.in.height, in.out.height),
          make_between(in, in.in.width, in.out.width), make_epilogue(in)};
}

Take make_take(const LowerInput& in) {
  const Tensor<int32_t>& index = in.op.index;
  const int32_t* rows = in.memory.copy(std::vector<int32_t>(index.data, index.data + index.count));
  return {in.layout(in.op.input()), rows, rows + in.out.height, make_epilogue(in)};
}

Multiply make_multiply(const LowerInput& in) {
  Layout factor = in.layout(in.op.operands[1]);
  const Value& shape = in.graph.values[size_t(in.op.operands[1])];
  if (shape.height * shape.width == 1) factor.row = factor.pixel = 0;
  return {in.layout(in.op.input()), factor, make_epilogue(in)};
}

PixelOp make_pixel_op(const LowerInput& in) {
  float* valid = in.memory.make<float>(in.lanes);
  for (int64_t i = 0; i < in.lanes; ++i) valid[i] = in.padded - in.lanes + i < in.out.channels ? 1.0f : -1.0f;
  return {in.layout(in.op.input()), in.op, 1.0f / float(in.out.channels), valid, make_epilogue(in)};
}

// The kernel of a kind that computes each pixel from the same pixel of its operand.
KernelFunction pixel_kernel(const Kernels& kernels, const char* kind) {
  const NamedKernel *row = kernels.pixel_kinds, *end = row + kernels.pixel_kind_count;
  row = std::find_if(row, end, [&](const NamedKernel& kernel) { return !std::strcmp(kernel.name, kind); });
  if (row == end) throw InvalidArgument(std::string("no kernel computes the kind ") + kind);
  return row->run;
}

}  // namespace

void lower_value(const LowerInput& in, int index, std::vector<KernelCall>& calls) {
  const Kernels& kernels = in.kernels;
  const auto call = [&](KernelFunction run, const auto& args) {
    calls.push_back({run, in.memory.copy(args), in.out.height, index});
  };
  if (has_bytes(in)) {
    if (in.op.kind() == Kind::max_pool) return call(kernels.pool_bytes, make_pool(in));
    if (in.op.kind() != Kind::concat || !is_joined(in)) call(kernels.gather_bytes, make_gather_bytes(in));
    return;
  }
  switch (in.op.kind()) {
    case Kind::match_channels:
    case Kind::pointwise:
      if (in.out.channels > in.in.channels) return call(kernels.gather, make_gather(in, sources_of(in)));
      return call(kernels.match, make_match(in));
    case Kind::concat:
      if (!is_joined(in)) return call(kernels.gather, make_gather(in, sources_of(in)));
      if (in.op.bits == kNone && in.op.bytes == kNone) return;
      return call(kernels.match, make_rest(in));
    case Kind::select: return call(kernels.gather, make_gather(in, sources_of(in)));
    case Kind::depth_to_space: return call(kernels.depth_to_space, make_depth_to_space(in));
    case Kind::bilinear: return call(kernels.bilinear, make_bilinear(in));
    case Kind::take: return call(kernels.take, make_take(in));
    case Kind::max_channels:
      if (in.out.channels > in.in.channels) return call(kernels.gather, make_gather(in, sources_of(in)));
      return call(kernels.max_channels, make_match(in));
    case Kind::multiply: return call(kernels.multiply, make_multiply(in));
    case Kind::unary:
      return call(kernels.functions[in.op.function_index].run, Unary{in.layout(in.op.input()), make_epilogue(in)});
    case Kind::max_pool_bits: return call(kernels.pool_bits, make_pool(in));
    case Kind::max_pool:
    case Kind::avg_pool:
    case Kind::adaptive_avg_pool: return call(kernels.pool, make_pool(in));
    default: return call(pixel_kernel(kernels, in.op.rule->name), make_pixel_op(in));
  }
}

}  // namespace bbg
