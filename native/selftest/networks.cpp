// A network of every kind against the scalar set.
#include "selftest.h"

namespace selftest {
namespace {

std::vector<uint64_t> draw_bits(int64_t rows, int64_t bits) {
  const int64_t words = (bits + 63) / 64;
  std::vector<uint64_t> result(static_cast<size_t>(rows * words));
  for (int64_t i = 0; i < rows * bits; ++i) {
    result[static_cast<size_t>(i / bits * words + i % bits / 64)] |= uint64_t(draw(0, 1)) << i % bits % 64;
  }
  return result;
}

// The kinds that a network lacks.
std::vector<const KindRule*> missing_kinds(const std::deque<bbg_op>& ops) {
  std::set<std::string> found;
  for (const bbg_op& op : ops) found.insert(op.kind);
  std::vector<const KindRule*> missing;
  for (const KindRule& rule : bbg::kKinds) {
    if (!found.count(rule.name)) missing.push_back(&rule);
  }
  return missing;
}

}  // namespace

void check_network(int number) {
  const int64_t c = draw(1, 70), size = draw(4, 20), images = draw(1, 20);
  const auto stem = normal(c * 3 * 3 * 2), scale = normal(c), bias = normal(c), gate = normal(c), below = normal(c);
  const auto taps = normal(9 * c);
  const std::vector<float> byte_scale(static_cast<size_t>(c), 20), small(static_cast<size_t>(c), 1e-3F);
  const auto weight = draw_bits(c, 9 * c), mask = draw_bits(1, c);
  std::vector<int8_t> byte_weight;
  for (int64_t i = 0; i < c * c; ++i) byte_weight.push_back(static_cast<int8_t>(draw(-128, 127)));
  std::vector<int32_t> index;
  for (int64_t i = 0; i < 2 * c; ++i) index.push_back(static_cast<int32_t>(draw(0, 3 * c - 1)));

  std::deque<bbg_op> ops;
  const auto add = [&](const char* kind, const Names& operands, const char* real, const char* bits) -> bbg_op& {
    ops.push_back(op_of(kind, kind, operands, real, bits));
    return ops.back();
  };
  const auto window = [](bbg_op& op, int64_t kernel, int64_t stride, int64_t padding) {
    bbg_attributes& a = op.attributes;
    for (int axis = 0; axis < 2; ++axis) a.kernel[axis] = kernel, a.stride[axis] = stride, a.padding[axis] = padding;
  };
  const auto scaled = [&](bbg_op& op) {
    op.attributes.channels = c, op.epilogue[BBG_SCALE] = array(scale), op.epilogue[BBG_BIAS] = array(bias);
  };

  bbg_op& first = add("conv", {"x"}, "r0", "b0");
  window(first, 3, 1, 1), scaled(first), first.weight = array(stem);
  bbg_op& binary = add("binary_conv", {"b0"}, "r1", "b1");
  window(binary, 3, 1, 1), scaled(binary), binary.weight = array(weight), binary.shortcut = "r0", binary.low = -40;
  binary.epilogue[BBG_GATE] = array(gate), binary.epilogue[BBG_BELOW] = array(below);
  window(add("max_pool", {"r1"}, "r2", nullptr), 2, 2, 0);
  bbg_op& bit_pool = add("max_pool_bits", {"b1"}, nullptr, "b2");
  window(bit_pool, 2, 2, 0), bit_pool.and_mask = array(mask);
  bbg_op& bytes = add("pointwise", {"r2"}, "r3", nullptr);
  bytes.bytes = "u0", bytes.epilogue[BBG_BYTE_SCALE] = array(byte_scale);
  bbg_op& byte_conv = add("byte_conv", {"u0"}, "r4", nullptr);
  byte_conv.attributes.channels = c, byte_conv.weight = array(byte_weight),
  byte_conv.epilogue[BBG_SCALE] = array(small);
  byte_conv.shortcut = "r3";
  add("match_channels", {"r4"}, "r5", nullptr).attributes.channels = 2 * c;
  bbg_op& mean = add("adaptive_avg_pool", {"r5"}, "r6", nullptr);
  mean.attributes.size[0] = 2;
  bbg_op& depthwise = add("conv", {"r0"}, "d0", nullptr);
  window(depthwise, 3, 1, 1), depthwise.attributes.channels = depthwise.attributes.groups = c,
                              depthwise.weight = array(taps);
  add("layer_norm", {"d0"}, "d1", nullptr);
  const auto functions = unary_functions();
  const std::string& function = functions[static_cast<size_t>(number) % functions.size()];
  bbg_op& local_mean = add("avg_pool", {"d1"}, "d2", nullptr);
  window(local_mean, 3, 1, 1);
  if (function.rfind("log", 0) == 0) local_mean.low = 0.1F;  // of which a logarithm is a number
  add("unary", {"d2"}, "d3", nullptr).attributes.function = function.c_str();
  add("multiply", {"d3", "d0"}, "d4", nullptr).shortcut = "d3";
  add("concat", {"d4", "d0", "d3"}, "d5", nullptr);
  bbg_op& select = add("select", {"d5"}, "d6", nullptr);
  select.attributes.channels = 2 * c, select.index = array(index);
  const std::vector<int32_t> places{2, 0, 1, 1, 0};
  bbg_op& take = add("take", {"d6"}, "d8", nullptr);
  take.attributes.size[0] = 3, take.attributes.size[1] = 2, take.index = array(places);
  bbg_op& small_map = add("adaptive_avg_pool", {"d8"}, "d7", nullptr);
  small_map.attributes.size[0] = 2;
  add("multiply", {"r6", "d7"}, "y", nullptr);
  std::vector<bbg_part> parts{{"y", "HWC"}};
  std::deque<std::string> names;
  for (const KindRule* rule : missing_kinds(ops)) {  // a new kind: it reads d0 and is an output
    if (rule->main != Type::real || rule->required) require((std::string("the network lacks ") + rule->name).c_str());
    names.push_back(std::string("of ") + rule->name);
    add(rule->name, Names(static_cast<size_t>(std::max(rule->operands, 1)), "d0"), names.back().c_str(), nullptr)
        .attributes.channels = c;
    parts.push_back({names.back().c_str(), "CHW"});
  }

  bbg_graph* graph = nullptr;
  require(bbg_graph_new("x", 0, 2, size, size, &graph));
  for (bbg_op& op : ops) {
    names.push_back(std::string(op.kind) + std::to_string(names.size()));
    op.name = names.back().c_str();
    require(bbg_graph_add(graph, &op));
  }
  require(bbg_graph_output(graph, parts.data(), static_cast<int64_t>(parts.size())));
  int64_t numbers = 0;
  for (const bbg_part& part : parts) {
    int64_t shape[3];
    require(bbg_graph_shape(graph, part.value, shape));
    numbers += shape[0] * shape[1] * shape[2];
  }

  const std::vector<float> x = normal(images * 2 * size * size);
  const std::vector<float> want = run(graph, "scalar", 1, x, images, numbers);
  for (const std::string& set : supported_sets()) {
    for (int threads = 1; threads <= 3; ++threads) {
      const std::vector<float> y = run(graph, set.c_str(), threads, x, images, numbers);
      float largest = 0, difference = 0;
      for (float v : want) largest = std::fmax(largest, std::fabs(v));
      int64_t departed = 0;  // images
      for (int64_t n = 0; n < images; ++n) {
        float most = 0;
        for (int64_t i = n * numbers; i < (n + 1) * numbers; ++i) {
          most = std::fmax(most, std::fabs(y[static_cast<size_t>(i)] - want[static_cast<size_t>(i)]));
        }
        departed += most > 1e-5F * largest, difference = std::fmax(difference, most);
      }
      // Under another rounding a near-tie may fall the other way: then one image differs, or numbers do by little.
      if (difference <= 1e-2F * largest || (departed == 1 && difference <= 0.1F * largest)) continue;
      std::printf("FAILED: network %d, set %s, %d threads: off by %g of %g\n", number, set.c_str(), threads,
                  double(difference), double(largest));
      std::exit(1);
    }
  }
  bbg_graph_free(graph);
}

}  // namespace selftest
