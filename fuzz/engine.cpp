// The C API under libFuzzer: its bytes become a graph, an engine, and images that run through it.
//
// The bytes say which kinds follow each other, with which attributes, and where the shapes allow it; now and then they
// say something that must be refused. Numbers of tensors and images come from a generator that a byte seeds. Each run
// is made twice, on the same engine: an answer that differs comes of reading what nobody wrote.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bbg.h"
#include "kinds.h"

namespace {

constexpr int kMostOps = 8, kMostChannels = 70, kMostSide = 12;

struct Value {
  std::string name;
  bbg::Type type;
  int64_t channels, height, width;

  int64_t numbers() const { return channels * height * width; }
};

// Of sizes that may be anything; -1 where it is none.
int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (int64_t size : sizes) {
    if (size < 0 || __builtin_mul_overflow(result, size, &result)) return -1;
  }
  return result;
}

int64_t words_of(int64_t bits) { return bits / 64 + (bits % 64 > 0); }

class Case {
 public:
  explicit Case(FuzzedDataProvider& bytes) : bytes_(bytes), random_(bytes.ConsumeIntegral<uint16_t>()) {}
  ~Case() { bbg_graph_free(graph_); }

  void run() {
    const bool of_bytes = bytes_.ConsumeBool();
    const Value input{"x", of_bytes ? bbg::Type::bytes : bbg::Type::real, size(kMostChannels), size(kMostSide),
                      size(kMostSide)};
    if (bbg_graph_new("x", of_bytes, input.channels, input.height, input.width, &graph_)) return;
    values_.push_back(input);
    const int ops = bytes_.ConsumeIntegralInRange(1, kMostOps);
    for (int i = 0; i < ops; ++i) add(i);
    std::vector<int64_t> outputs;
    const int count = bytes_.ConsumeIntegralInRange(1, 3);
    for (int i = 0; i < count; ++i) {
      const Value& value = i ? any() : values_.back();
      const char* const order = bytes_.PickValueInArray({"CHW", "HWC", "WCH", "HCW", "WHC", "CWH"});
      const bbg_part part{value.name.c_str(), order};
      if (!bbg_graph_output(graph_, &part, 1)) outputs.push_back(value.numbers());
    }
    if (!outputs.empty()) run_engine(input, outputs);
  }

 private:
  // Small, and once in a while anything.
  int64_t size(int64_t most, int64_t least = 1) {
    return rare() ? bytes_.ConsumeIntegral<int64_t>() : bytes_.ConsumeIntegralInRange(least, most);
  }
  bool rare() { return bytes_.ConsumeIntegral<uint8_t>() == 0xA5; }
  const Value& any() { return values_[bytes_.ConsumeIntegralInRange<size_t>(0, values_.size() - 1)]; }

  const Value* of(bbg::Type type) {
    std::vector<const Value*> fit;
    for (const Value& value : values_) {
      if (value.type == type) fit.push_back(&value);
    }
    if (fit.empty() || rare()) return &any();
    return fit[bytes_.ConsumeIntegralInRange<size_t>(0, fit.size() - 1)];
  }

  // Arrays live until the graph is an engine.
  bbg_array array(bbg::Element element, int64_t count, int64_t bits = 0, int64_t below = 0) {
    if (count < 0 || count > (1 << 20)) count = 1;
    const bool odd = rare();
    const size_t bytes = element == bbg::Element::uint64 ? 8 : element == bbg::Element::int8 ? 1 : 4;
    std::vector<uint8_t>& memory = memory_.emplace_back(size_t(count) * bytes + bytes);
    for (int64_t i = 0; i < count; ++i) {
      uint8_t* const to = memory.data() + size_t(i) * bytes;
      const uint32_t drawn = uint32_t(random_());
      if (element == bbg::Element::float32) {
        const float value = odd ? std::numeric_limits<float>::max() : float(int32_t(drawn % 4097) - 2048) / 1024;
        std::memcpy(to, &value, bytes);
      } else if (element == bbg::Element::uint64) {
        uint64_t value = uint64_t(drawn) << 32 | uint32_t(random_());
        const int64_t words = words_of(bits), word = words ? i % words : 0;
        if (bits % 64 && word == words - 1 && !odd) value &= (uint64_t{1} << bits % 64) - 1;
        std::memcpy(to, &value, bytes);
      } else if (element == bbg::Element::int8) {
        *to = uint8_t(drawn);
      } else {
        const int32_t value = below && !odd ? int32_t(drawn % uint32_t(below)) : int32_t(drawn % 65) - 32;
        std::memcpy(to, &value, bytes);
      }
    }
    return {memory.data(), size_t(count) + (odd && drawn_extra())};
  }
  bool drawn_extra() { return bytes_.ConsumeBool(); }

  void add(int number) {
    constexpr int kKinds = int(sizeof bbg::kKinds / sizeof *bbg::kKinds);
    const bbg::KindRule& rule = bbg::kKinds[bytes_.ConsumeIntegralInRange(0, kKinds - 1)];
    bbg_op op{};
    const std::string name = "op" + std::to_string(number), real = "r" + std::to_string(number);
    const std::string bits = "b" + std::to_string(number), byte = "u" + std::to_string(number);
    op.name = name.c_str(), op.kind = rule.name;
    std::vector<const char*> operands;
    const int count = rule.operands ? rule.operands : bytes_.ConsumeIntegralInRange(2, 4);
    const Value main = *of(rule.main);
    for (int i = 0; i < count; ++i) operands.push_back((i ? *of(rule.main) : main).name.c_str());
    op.operands = operands.data(), op.operand_count = int64_t(operands.size());
    const std::string shortcut = any().name;
    if (rule.shortcut && bytes_.ConsumeBool()) op.shortcut = shortcut.c_str();
    attributes(rule, main, op.attributes);
    const int64_t channels = rule.attributes & bbg::kChannels ? op.attributes.channels : main.channels;
    tensors(rule, main, channels, op);
    const bool of_bytes = rule.main == bbg::Type::bytes;
    if (rule.real_output && bytes_.ConsumeBool()) op.real = real.c_str();
    if (!rule.real_output || bytes_.ConsumeBool()) op.bits = bits.c_str();
    if ((of_bytes && bytes_.ConsumeBool()) || (!op.real && !op.bits) || bytes_.ConsumeBool()) op.bytes = byte.c_str();
    if (rule.real_output && !op.bits && !op.bytes) op.real = real.c_str();
    const bool clipped = bytes_.ConsumeBool();
    op.low = clipped ? float(-bytes_.ConsumeIntegralInRange(0, 3)) : -std::numeric_limits<float>::infinity();
    op.high = clipped ? float(bytes_.ConsumeIntegralInRange(0, 3)) : std::numeric_limits<float>::infinity();
    if (bbg_graph_add(graph_, &op)) return;
    const auto write = [&](const char* written, bbg::Type type) {
      int64_t shape[3];
      if (!written || bbg_graph_shape(graph_, written, shape)) return;
      values_.push_back({written, type, shape[0], shape[1], shape[2]});
    };
    write(op.real, bbg::Type::real), write(op.bits, bbg::Type::bits), write(op.bytes, bbg::Type::bytes);
  }

  void attributes(const bbg::KindRule& rule, const Value& main, bbg_attributes& to) {
    static std::vector<const char*> functions;
    for (int i = int(functions.size()); bbg_function(i); ++i) functions.push_back(bbg_function(i));
    for (const bbg::Attribute& a : bbg::kAttributes) {
      if (!(rule.attributes & a.bit)) continue;
      const int64_t most = a.bit == bbg::kChannels ? kMostChannels : a.bit == bbg::kSize ? kMostSide : 4;
      for (int axis = 0; a.pair && axis < 2; ++axis) (to.*a.pair)[axis] = size(most, a.least);
      if (a.integer) to.*a.integer = size(most, a.least);
      if (a.bit == bbg::kGroups) {
        const int64_t groups[] = {1, 2, main.channels};
        if (!rare()) to.groups = groups[bytes_.ConsumeIntegralInRange(0, 2)];
      }
      if (a.boolean) to.*a.boolean = bytes_.ConsumeBool();
      if (a.number) to.*a.number = rare() ? 0.0f : 1e-5f;
      if (a.word) {
        const size_t last = functions.size() - 1;
        to.*a.word = rare() ? "none" : functions[bytes_.ConsumeIntegralInRange<size_t>(0, last)];
      }
    }
    // A depthwise convolution, which random numbers would hardly ever make.
    if (rule.attributes & bbg::kGroups && to.groups == main.channels) to.channels = main.channels;
  }

  void tensors(const bbg::KindRule& rule, const Value& main, int64_t channels, bbg_op& op) {
    const bbg_attributes& a = op.attributes;
    const bool window = rule.attributes & bbg::kKernel;
    const int64_t taps = window ? product({a.kernel[0], a.kernel[1]}) : 1;
    const int64_t inputs = rule.attributes & bbg::kGroups && a.groups > 0 ? main.channels / a.groups : main.channels;
    for (const bbg::TensorRule& tensor : bbg::kTensors) {
      const bool required = rule.required & tensor.bit;
      if (!required && !(rule.optional & tensor.bit && bytes_.ConsumeBool())) continue;
      const bbg::Element element = tensor.element == bbg::Element::none ? rule.weight : tensor.element;
      int64_t count = channels, row = 0, below = 0;
      if (tensor.bit == bbg::kWeight) count = product({channels, taps, inputs}), row = product({taps, inputs});
      if (tensor.bit == bbg::kWeight && element == bbg::Element::uint64) count = product({channels, words_of(row)});
      if (tensor.bit == bbg::kTapBias) count = product({taps, channels});
      if (tensor.bit == bbg::kAndMask) count = words_of(channels), row = channels;
      if (tensor.bit == bbg::kIndex) below = main.channels;
      op.*tensor.field = array(element, count, row, below);
    }
    for (int r = 0; r < BBG_PARAMETERS; ++r) {
      if (rule.epilogue >> r & 1 && bytes_.ConsumeBool()) op.epilogue[r] = array(bbg::Element::float32, channels);
    }
  }

  void run_engine(const Value& input, const std::vector<int64_t>& outputs) {
    const char* set = nullptr;
    int supported = 0;
    const int number = bytes_.ConsumeIntegralInRange(0, 4);
    if (!bbg_kernel_set(number, &set, &supported) || !supported) set = nullptr;
    const bbg_limits limits{int64_t{64} << 20, int64_t{20000000}};
    bbg_engine* engine = nullptr;
    const int threads = bytes_.ConsumeIntegralInRange(1, 3);
    if (bbg_engine_new(graph_, set, threads, &limits, nullptr, nullptr, &engine)) return;
    const bbg_input kind = bytes_.ConsumeBool() ? BBG_BYTE_NHWC : BBG_FLOAT_NCHW;
    const int64_t images = bytes_.ConsumeIntegralInRange(1, 3), numbers = images * input.numbers();
    std::vector<float> floats(kind == BBG_FLOAT_NCHW ? size_t(numbers) : 0), scale(size_t(input.channels), 0.01f);
    std::vector<uint8_t> data(kind == BBG_BYTE_NHWC ? size_t(numbers) : 0);
    for (float& x : floats) x = float(int32_t(random_() % 4097) - 2048) / 1024;
    for (uint8_t& x : data) x = uint8_t(random_());
    const void* const from = kind == BBG_FLOAT_NCHW ? static_cast<const void*>(floats.data()) : data.data();
    const size_t bytes = kind == BBG_FLOAT_NCHW ? floats.size() * sizeof(float) : data.size();
    const std::vector<float> first = answer(engine, kind, from, bytes, images, scale, outputs);
    const std::vector<float> again = answer(engine, kind, from, bytes, images, scale, outputs);
    if (first.size() != again.size() || std::memcmp(first.data(), again.data(), first.size() * sizeof(float))) {
      std::abort();
    }
    bbg_engine_free(engine);
  }

  static std::vector<float> answer(bbg_engine* engine, bbg_input kind, const void* data, size_t bytes, int64_t images,
                                   const std::vector<float>& scale, const std::vector<int64_t>& outputs) {
    size_t numbers = 0;
    for (int64_t count : outputs) numbers += size_t(images * count);
    std::vector<float> result(numbers);
    std::vector<float*> to;
    std::vector<size_t> counts;
    float* at = result.data();
    for (int64_t count : outputs) {
      to.push_back(at);
      counts.push_back(size_t(images * count));
      at += images * count;
    }
    bbg_engine_run(engine, kind, data, bytes, images, scale.data(), scale.data(), to.data(), counts.data(), nullptr,
                   nullptr, nullptr);
    return result;
  }

  FuzzedDataProvider& bytes_;
  std::minstd_rand random_;
  bbg_graph* graph_ = nullptr;
  std::deque<Value> values_;  // whose names stay where they are
  std::deque<std::vector<uint8_t>> memory_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider bytes(data, size);
  Case(bytes).run();
  return 0;
}
