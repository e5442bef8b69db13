// A self-check of the kernel sets without Python: random convolutions of bits and of bytes against a loop over the
// definition (the integers must be equal), ops of real values against theirs, then networks of all kinds against the
// scalar set. Also what sanitizers and other machines run:
//
//   cmake -S . -B build/check -DBBG_PYTHON=OFF [-DBBG_SANITIZE=address,undefined] && cmake --build build/check
//   build/check/selftest [cases]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bbg.h"

namespace {

std::mt19937 random_bits(1);

int64_t draw(int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(random_bits); }

std::vector<float> normal(int64_t count) {
  std::normal_distribution<float> gauss;
  std::vector<float> v(static_cast<size_t>(count));
  for (float& x : v) x = gauss(random_bits);
  return v;
}

void require(const char* error) {
  if (!error) return;
  std::printf("FAILED: %s\n", error);
  std::exit(1);
}

using Names = std::vector<const char*>;

bbg_op op_of(const char* name, const char* kind, const Names& operands, const char* real, const char* bits) {
  static std::deque<Names> kept;  // an op only borrows them
  kept.push_back(operands);
  bbg_op op{};
  op.name = name, op.kind = kind, op.real = real, op.bits = bits;
  op.operands = kept.back().data(), op.operand_count = static_cast<int64_t>(operands.size());
  for (int a = 0; a < 2; ++a) op.kernel[a] = op.stride[a] = op.dilation[a] = op.size[a] = 1;
  op.groups = 1;
  op.low = -std::numeric_limits<float>::infinity(), op.high = std::numeric_limits<float>::infinity();
  return op;
}

struct Shape {
  int64_t channels, height, width;
  size_t numbers() const { return static_cast<size_t>(channels * height * width); }
};

std::vector<float> run(bbg_graph* graph, const char* isa, int threads, const std::vector<float>& x, int64_t images,
                       size_t numbers) {
  bbg_engine* engine = nullptr;
  require(bbg_engine_new(graph, isa, threads, &engine));
  std::vector<float> y(numbers * static_cast<size_t>(images));
  float* outputs[] = {y.data()};
  const size_t counts[] = {y.size()};
  const size_t bytes = x.size() * sizeof(float);
  require(bbg_engine_run(engine, BBG_FLOAT_NCHW, x.data(), bytes, images, nullptr, nullptr, outputs, counts, nullptr));
  bbg_engine_free(engine);
  return y;
}

std::vector<std::string> supported_sets() {
  std::vector<std::string> sets;
  const char* name;
  int supported;
  for (int i = 0; bbg_kernel_set(i, &name, &supported); ++i) {
    if (supported) sets.push_back(name);
  }
  return sets;
}

// ---- one convolution of bits or bytes against its definition --------------------------------------------------------

struct IntegerCase {
  Shape in;
  int64_t images, groups, outputs;
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  std::vector<uint64_t> weight;
  std::vector<int8_t> byte_weight;  // empty for a convolution of bits

  int64_t inputs() const { return in.channels / groups; }
  int64_t words() const { return (kernel[0] * kernel[1] * inputs() + 63) / 64; }
  int64_t steps(int axis) const {
    const int64_t size = axis ? in.width : in.height;
    const int64_t span = size + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1;
    return span < 0 ? 0 : span / stride[axis] + 1;
  }
  Shape out() const { return {outputs, steps(0), steps(1)}; }

  float value(const std::vector<float>& x, int64_t n, int64_t o, int64_t y, int64_t px) const {
    int64_t sum = 0;
    const int64_t group = o / (outputs / groups);
    for (int64_t ky = 0; ky < kernel[0]; ++ky) {
      for (int64_t kx = 0; kx < kernel[1]; ++kx) {
        const int64_t iy = y * stride[0] - padding[0] + ky * dilation[0],
                      ix = px * stride[1] - padding[1] + kx * dilation[1];
        if (iy < 0 || iy >= in.height || ix < 0 || ix >= in.width) continue;
        for (int64_t c = 0; c < inputs(); ++c) {
          const int64_t bit = (ky * kernel[1] + kx) * inputs() + c;
          const int64_t channel = group * inputs() + c;
          const float number = x[static_cast<size_t>(((n * in.channels + channel) * in.height + iy) * in.width + ix)];
          if (byte_weight.empty()) {
            const bool w = weight[static_cast<size_t>(o * words() + bit / 64)] >> bit % 64 & 1;
            sum += (number >= 0) == w ? 1 : -1;
          } else {
            const float byte = std::fmin(std::fmax(number, 0.0F), 255.0F);
            sum += static_cast<int64_t>(byte) *
                   byte_weight[static_cast<size_t>(o * kernel[0] * kernel[1] * inputs() + bit)];
          }
        }
      }
    }
    return static_cast<float>(sum);
  }
};

IntegerCase draw_case(bool bytes) {
  constexpr int64_t kChannels[] = {1, 3, 8, 16, 17, 31, 32, 33, 48, 64, 96, 100, 128, 130, 320};
  IntegerCase c{};
  do {
    c.groups = draw(0, 3) ? 1 : draw(1, 4);
    c.in = {kChannels[draw(0, 14)] * c.groups, draw(1, 17), draw(1, 17)};
    c.outputs = kChannels[draw(0, 13)] * c.groups;
    c.images = draw(1, 3);
    for (int a = 0; a < 2; ++a) {
      c.kernel[a] = draw(0, 1) ? 3 : draw(1, 7);
      c.stride[a] = draw(1, 2), c.padding[a] = draw(0, 3), c.dilation[a] = draw(0, 2) ? 1 : draw(1, 3);
    }
  } while (c.steps(0) < 1 || c.steps(1) < 1 || c.in.channels > 400);
  if (bytes) {
    c.byte_weight.resize(static_cast<size_t>(c.outputs * c.kernel[0] * c.kernel[1] * c.inputs()));
    for (int8_t& w : c.byte_weight) w = static_cast<int8_t>(draw(-128, 127));
    return c;
  }
  c.weight.resize(static_cast<size_t>(c.outputs * c.words()));
  const int64_t tail = c.kernel[0] * c.kernel[1] * c.inputs() % 64;
  for (size_t i = 0; i < c.weight.size(); ++i) {
    c.weight[i] = static_cast<uint64_t>(random_bits()) << 32 | random_bits();
    if (tail && (i + 1) % static_cast<size_t>(c.words()) == 0) c.weight[i] &= (uint64_t{1} << tail) - 1;
  }
  return c;
}

void check_integers(int number, bool bytes) {
  const IntegerCase c = draw_case(bytes);
  const Shape out = c.out();
  bbg_graph* graph = nullptr;
  require(bbg_graph_new("x", 0, c.in.channels, c.in.height, c.in.width, &graph));
  bbg_op input = op_of("input", "pointwise", {"x"}, nullptr, bytes ? nullptr : "b");
  if (bytes) input.bytes = "b";
  bbg_op conv = op_of("conv", bytes ? "byte_conv" : "binary_conv", {"b"}, "y", nullptr);
  for (int a = 0; a < 2; ++a) {
    conv.kernel[a] = c.kernel[a], conv.stride[a] = c.stride[a];
    conv.padding[a] = c.padding[a], conv.dilation[a] = c.dilation[a];
  }
  conv.groups = c.groups, conv.channels = c.outputs;
  if (bytes)
    conv.weight = {c.byte_weight.data(), c.byte_weight.size()};
  else
    conv.weight = {c.weight.data(), c.weight.size()};
  require(bbg_graph_add(graph, &input));
  require(bbg_graph_add(graph, &conv));
  require(bbg_graph_output(graph, "y"));
  std::vector<float> x = normal(c.images * static_cast<int64_t>(c.in.numbers()));
  for (float& v : x) v = bytes ? static_cast<float>(draw(-20, 280)) : v;  // clipped at both ends
  for (const std::string& set : supported_sets()) {
    const std::vector<float> y = run(graph, set.c_str(), number % 3 + 1, x, c.images, out.numbers());
    size_t i = 0;
    for (int64_t n = 0; n < c.images; ++n) {
      for (int64_t o = 0; o < out.channels; ++o) {
        for (int64_t py = 0; py < out.height; ++py) {
          for (int64_t px = 0; px < out.width; ++px, ++i) {
            const float want = c.value(x, n, o, py, px);
            if (y[i] == want) continue;
            std::printf("FAILED: case %d, set %s: [%d, %d, %d, %d] is %g, not %g\n", number, set.c_str(), int(n),
                        int(o), int(py), int(px), double(y[i]), double(want));
            std::exit(1);
          }
        }
      }
    }
  }
  bbg_graph_free(graph);
}

// ---- one op of real values against its definition -------------------------------------------------------------------

struct RealCase {
  const char* kind;
  Shape in, out;
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  std::vector<float> weight;   // depthwise
  std::vector<int32_t> index;  // select

  // The result at channel c, row y, column x for one image.
  double value(const float* image, int64_t c, int64_t y, int64_t x) const {
    const auto at = [&](int64_t channel, int64_t iy, int64_t ix) {
      return static_cast<double>(image[(channel * in.height + iy) * in.width + ix]);
    };
    const std::string name = kind;
    if (name == "concat") return at(c % in.channels, y, x);
    if (name == "select") return at(index[static_cast<size_t>(c)], y, x);
    if (name == "multiply") return at(c, y, x) * at(c, y, x);
    if (name == "tanh") return std::tanh(at(c, y, x));
    const double v = at(c < in.channels ? c : 0, y < in.height ? y : 0, x < in.width ? x : 0);
    if (name == "sigmoid") return 1 / (1 + std::exp(-v));
    if (name == "silu") return v / (1 + std::exp(-v));
    if (name == "hardswish") return v * std::min(1.0, std::max(0.0, v / 6 + 0.5));
    if (name == "gelu") return v * 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
    double sum = 0, squares = 0;
    if (name == "gate") {  // times the mean of the map
      for (int64_t i = 0; i < in.height * in.width; ++i) sum += at(c, 0, i);
      return at(c, y, x) * sum / static_cast<double>(in.height * in.width);
    }
    if (name == "layer_norm") {
      for (int64_t i = 0; i < in.channels; ++i) sum += at(i, y, x) / static_cast<double>(in.channels);
      for (int64_t i = 0; i < in.channels; ++i)
        squares += std::pow(at(i, y, x) - sum, 2) / static_cast<double>(in.channels);
      return (at(c, y, x) - sum) / std::sqrt(squares + 1e-3);
    }
    for (int64_t ky = 0; ky < kernel[0]; ++ky) {
      for (int64_t kx = 0; kx < kernel[1]; ++kx) {
        const int64_t iy = y * stride[0] - padding[0] + ky * dilation[0],
                      ix = x * stride[1] - padding[1] + kx * dilation[1];
        if (iy < 0 || iy >= in.height || ix < 0 || ix >= in.width) continue;
        sum += at(c, iy, ix) * static_cast<double>(weight[static_cast<size_t>((c * kernel[0] + ky) * kernel[1] + kx)]);
      }
    }
    return sum;
  }
};

RealCase draw_real(int number) {
  constexpr const char* kKinds[] = {"concat", "select",    "multiply", "gate",       "tanh", "sigmoid",
                                    "silu",   "hardswish", "gelu",     "layer_norm", "conv"};
  RealCase c{};
  c.kind = kKinds[number % 11];
  const std::string name = c.kind;
  do {
    c.in = {draw(1, 70) + (name == "conv"), draw(1, 17), draw(1, 17)};
    c.out = c.in;
    for (int a = 0; a < 2; ++a) {
      c.kernel[a] = draw(1, 7), c.stride[a] = draw(1, 2), c.padding[a] = draw(0, 3), c.dilation[a] = draw(1, 2);
      const int64_t size = a ? c.in.width : c.in.height;
      const int64_t span = size + 2 * c.padding[a] - c.dilation[a] * (c.kernel[a] - 1) - 1;
      if (name == "conv") (a ? c.out.width : c.out.height) = span < 0 ? 0 : span / c.stride[a] + 1;
    }
  } while (c.out.height < 1 || c.out.width < 1);
  if (name == "concat") c.out.channels *= 3;
  if (name == "select") c.out.channels = draw(1, 90);
  c.index.resize(static_cast<size_t>(c.out.channels));
  for (int32_t& i : c.index) i = static_cast<int32_t>(draw(0, c.in.channels - 1));
  c.weight = normal(c.in.channels * c.kernel[0] * c.kernel[1]);
  return c;
}

void check_real(int number) {
  const RealCase c = draw_real(number);
  const std::string name = c.kind;
  const int64_t images = draw(1, 3);
  bbg_graph* graph = nullptr;
  require(bbg_graph_new("x", 0, c.in.channels, c.in.height, c.in.width, &graph));
  const bool gate = name == "gate";
  if (gate) {
    const bbg_op mean = op_of("mean", "adaptive_avg_pool", {"x"}, "m", nullptr);
    require(bbg_graph_add(graph, &mean));
  }
  const Names operands = name == "concat"     ? Names{"x", "x", "x"}
                         : name == "multiply" ? Names{"x", "x"}
                                              : Names{"x", "m"};
  const bool several = name == "concat" || name == "multiply" || gate;
  bbg_op op = op_of("op", gate ? "multiply" : c.kind, several ? operands : Names{"x"}, "y", nullptr);
  if (name == "layer_norm") op.eps = 1e-3F;
  if (name == "select") op.channels = c.out.channels, op.index = {c.index.data(), c.index.size()};
  if (name == "conv") {
    op.channels = op.groups = c.in.channels, op.weight = {c.weight.data(), c.weight.size()};
    for (int a = 0; a < 2; ++a) {
      op.kernel[a] = c.kernel[a], op.stride[a] = c.stride[a], op.padding[a] = c.padding[a],
      op.dilation[a] = c.dilation[a];
    }
  }
  require(bbg_graph_add(graph, &op));
  require(bbg_graph_output(graph, "y"));
  std::vector<float> x = normal(images * static_cast<int64_t>(c.in.numbers()));
  for (float& v : x) v *= 2;
  std::vector<double> want;
  double largest = 0;
  for (int64_t n = 0; n < images; ++n) {
    for (size_t i = 0; i < c.out.numbers(); ++i) {
      const int64_t at = static_cast<int64_t>(i), area = c.out.height * c.out.width;
      const float* image = x.data() + static_cast<size_t>(n) * c.in.numbers();
      want.push_back(c.value(image, at / area, at % area / c.out.width, at % c.out.width));
      largest = std::fmax(largest, std::fabs(want.back()));
    }
  }
  for (const std::string& set : supported_sets()) {
    const std::vector<float> y = run(graph, set.c_str(), number % 3 + 1, x, images, c.out.numbers());
    for (size_t i = 0; i < y.size(); ++i) {
      if (std::fabs(static_cast<double>(y[i]) - want[i]) <= 3e-6 * largest) continue;
      std::printf("FAILED: %s, case %d, set %s: number %d is %g, not %g\n", c.kind, number, set.c_str(), int(i),
                  double(y[i]), want[i]);
      std::exit(1);
    }
  }
  bbg_graph_free(graph);
}

// ---- a network of every kind against the scalar set -----------------------------------------------------------------

void check_network(int number) {
  const int64_t c = draw(1, 70), size = draw(4, 20), images = draw(1, 20);
  const auto stem = normal(c * 3 * 3 * 2), scale = normal(c), bias = normal(c), gate = normal(c), below = normal(c);
  std::vector<uint64_t> weight(static_cast<size_t>(c * ((9 * c + 63) / 64)), 0);
  for (size_t i = 0; i < weight.size(); ++i) {
    if ((i + 1) % static_cast<size_t>((9 * c + 63) / 64))
      weight[i] = static_cast<uint64_t>(random_bits()) << 32 | random_bits();
  }
  bbg_graph* graph = nullptr;
  require(bbg_graph_new("x", 0, 2, size, size, &graph));
  bbg_op ops[] = {op_of("stem", "conv", {"x"}, "r0", "b0"),
                  op_of("conv", "binary_conv", {"b0"}, "r1", "b1"),
                  op_of("pool", "max_pool", {"r1"}, "r2", nullptr),
                  op_of("bits", "max_pool_bits", {"b1"}, nullptr, "b2"),
                  op_of("join", "pointwise", {"r2"}, "r3", nullptr),
                  op_of("wide", "match_channels", {"r3"}, "r4", nullptr),
                  op_of("mean", "adaptive_avg_pool", {"r4"}, "r5", nullptr),
                  op_of("tap", "conv", {"r0"}, "d0", nullptr),  // depthwise
                  op_of("norm", "layer_norm", {"d0"}, "d1", nullptr),
                  op_of("tanh", "tanh", {"d1"}, "d2", nullptr),
                  op_of("gelu", "gelu", {"d0"}, "d3", nullptr),
                  op_of("product", "multiply", {"d2", "d3"}, "d4", nullptr),
                  op_of("concat", "concat", {"d4", "d0", "d2"}, "d5", nullptr),
                  op_of("select", "select", {"d5"}, "d6", nullptr),
                  op_of("small", "adaptive_avg_pool", {"d6"}, "d7", nullptr),
                  op_of("last", "multiply", {"r5", "d7"}, "y", nullptr)};
  for (int i = 0; i < 2; ++i) {
    ops[i].channels = c, ops[i].kernel[0] = ops[i].kernel[1] = 3, ops[i].padding[0] = ops[i].padding[1] = 1;
    ops[i].rows[BBG_SCALE] = {scale.data(), scale.size()}, ops[i].rows[BBG_BIAS] = {bias.data(), bias.size()};
  }
  ops[0].weight = {stem.data(), stem.size()}, ops[1].weight = {weight.data(), weight.size()};
  ops[1].shortcut = "r0", ops[1].rows[BBG_GATE] = {gate.data(), gate.size()};
  ops[1].rows[BBG_BELOW] = {below.data(), below.size()}, ops[1].low = -40;
  for (int i = 2; i < 4; ++i) ops[i].kernel[0] = ops[i].kernel[1] = 2, ops[i].stride[0] = ops[i].stride[1] = 2;
  ops[5].channels = 2 * c, ops[6].size[0] = 2, ops[6].size[1] = 1;
  const auto taps = normal(9 * c);
  std::vector<int32_t> index(static_cast<size_t>(2 * c));
  for (int32_t& i : index) i = static_cast<int32_t>(draw(0, 3 * c - 1));
  ops[7].channels = ops[7].groups = c, ops[7].kernel[0] = ops[7].kernel[1] = 3,
  ops[7].padding[0] = ops[7].padding[1] = 1;
  ops[7].weight = {taps.data(), taps.size()}, ops[8].eps = 1e-5F, ops[11].shortcut = "d2";
  ops[13].channels = 2 * c, ops[13].index = {index.data(), index.size()};
  for (const bbg_op& op : ops) require(bbg_graph_add(graph, &op));
  require(bbg_graph_output(graph, "y"));

  const std::vector<float> x = normal(images * 2 * size * size);
  const size_t numbers = Shape{2 * c, 2, 1}.numbers();
  const std::vector<float> want = run(graph, "scalar", 1, x, images, numbers);
  for (const std::string& set : supported_sets()) {
    for (int threads = 1; threads <= 3; ++threads) {
      const std::vector<float> y = run(graph, set.c_str(), threads, x, images, numbers);
      float largest = 0, difference = 0;
      for (float v : want) largest = std::fmax(largest, std::fabs(v));
      int64_t departed = 0;  // images
      for (int64_t n = 0; n < images; ++n) {
        float most = 0;
        for (size_t i = size_t(n) * numbers; i < size_t(n + 1) * numbers; ++i)
          most = std::fmax(most, std::fabs(y[i] - want[i]));
        departed += most > 1e-5F * largest, difference = std::fmax(difference, most);
      }
      // A near-tie of the stem may fall the other way under another rounding: then one image differs, or numbers do by
      // little.
      if (difference <= 1e-2F * largest || (departed == 1 && difference <= 0.1F * largest)) continue;
      std::printf("FAILED: network %d, set %s, %d threads: off by %g of %g\n", number, set.c_str(), threads,
                  double(difference), double(largest));
      std::exit(1);
    }
  }
  bbg_graph_free(graph);
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 200;
  for (int i = 0; i < cases; ++i) check_integers(i, i % 4 == 3);
  for (int i = 0; i < cases; ++i) check_real(i);
  for (int i = 0; i < cases / 4; ++i) check_network(i);
  std::printf("%d convolutions, %d real ops and %d networks: ok on", cases, cases, cases / 4);
  for (const std::string& set : supported_sets()) std::printf(" %s", set.c_str());
  std::printf("\n");
  return 0;
}
