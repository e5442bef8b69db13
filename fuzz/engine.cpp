// The C API under libFuzzer: its bytes become a graph, an engine, and images that run through it.
//
// The bytes say which kinds follow each other, with which attributes, and where the shapes allow it; now and then they
// say something that must be refused. Numbers of tensors and images come from a generator that a byte seeds. Each run
// is made several times, on the same engine: an answer that differs comes of reading what nobody wrote.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <thread>
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
  explicit Case(FuzzedDataProvider& bytes)
      : bytes_(bytes), random_(bytes.ConsumeIntegral<uint16_t>()), odd_(bytes.ConsumeIntegral<uint8_t>() % 8 == 7) {}
  ~Case() { bbg_graph_free(graph_); }

  void run() {
    const bool of_bytes = bytes_.ConsumeBool();
    const Value input{"x", of_bytes ? bbg::Type::bytes : bbg::Type::real, size(kMostChannels), size(kMostSide),
                      size(kMostSide)};
    if (bbg_graph_new("x", of_bytes, input.channels, input.height, input.width, &graph_)) return;
    values_.push_back(input);
    const int ops = bytes_.ConsumeIntegralInRange(1, kMostOps);
    for (int i = 0; i < ops && bytes_.remaining_bytes(); ++i) add(i);
    std::vector<int64_t> outputs;
    const int count = bytes_.ConsumeIntegralInRange(1, 3);
    for (int i = 0; i < count; ++i) {
      const Value& value = i ? any() : values_.back();
      const char* const order = bytes_.PickValueInArray({"CHW", "HWC", "WCH", "HCW", "WHC", "CWH"});
      const Value& other = any();
      const bbg_part parts[] = {{value.name.c_str(), order}, {other.name.c_str(), "HWC"}};
      const int64_t number = bytes_.ConsumeIntegralInRange(1, 2);
      if (bbg_graph_output(graph_, parts, number)) continue;
      outputs.push_back(value.numbers() + (number == 2 ? other.numbers() : 0));
    }
    if (!outputs.empty()) run_engine(input, outputs);
  }

 private:
  // Small, and in odd cases once in a while anything.
  int64_t size(int64_t most, int64_t least = 1) {
    return rare() ? bytes_.ConsumeIntegral<int64_t>() : bytes_.ConsumeIntegralInRange(least, most);
  }
  bool rare() { return odd_ && bytes_.ConsumeIntegral<uint8_t>() == 0xA5; }
  const Value& any() { return values_[bytes_.ConsumeIntegralInRange<size_t>(0, values_.size() - 1)]; }

  // One of the values of this type that `fits`, more often the last than another.
  template <class Fits>
  const Value& of(bbg::Type type, Fits fits) {
    std::vector<const Value*> found;
    for (const Value& value : values_) {
      if (value.type == type && fits(value)) found.push_back(&value);
    }
    if (found.empty() || rare()) return any();
    if (bytes_.ConsumeBool()) return *found.back();
    return *found[bytes_.ConsumeIntegralInRange<size_t>(0, found.size() - 1)];
  }

  // A kind whose operands there are.
  const bbg::KindRule& kind() {
    std::vector<const bbg::KindRule*> found;
    for (const bbg::KindRule& rule : bbg::kKinds) {
      const auto fits = [&](const Value& value) { return value.type == rule.main; };
      if (rare() || std::any_of(values_.begin(), values_.end(), fits)) found.push_back(&rule);
    }
    if (found.empty()) return bbg::kKinds[0];
    return *found[bytes_.ConsumeIntegralInRange<size_t>(0, found.size() - 1)];
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
    const bbg::KindRule& rule = kind();
    bbg_op op{};
    const std::string name = "op" + std::to_string(number), real = "r" + std::to_string(number);
    const std::string bits = "b" + std::to_string(number), byte = "u" + std::to_string(number);
    op.name = name.c_str(), op.kind = rule.name;
    std::vector<const char*> operands;
    const int count = rule.operands ? rule.operands : bytes_.ConsumeIntegralInRange(2, 4);
    const Value main = of(rule.main, [](const Value&) { return true; });
    const bool factors = rule.kind == bbg::Kind::multiply;
    const auto beside = [&](const Value& value) {
      const bool map = value.height == main.height && value.width == main.width;
      return factors ? value.channels == main.channels && (map || value.height * value.width == 1) : map;
    };
    for (int i = 0; i < count; ++i) operands.push_back((i ? of(rule.main, beside) : main).name.c_str());
    op.operands = operands.data(), op.operand_count = int64_t(operands.size());
    attributes(rule, main, op.attributes);
    const int64_t channels = rule.attributes & bbg::kChannels ? op.attributes.channels : main.channels;
    const int written = rule.real_output ? bytes_.ConsumeIntegralInRange(0, 7) : 2;  // 0 is 1: real values alone
    if (written % 2 || !written) op.real = real.c_str();
    if (written & 2) op.bits = bits.c_str();
    if (written & 4) op.bytes = byte.c_str();
    if (rule.shortcut && bytes_.ConsumeBool()) {
      const auto fits = [&](const Value& value) { return value.channels == channels; };
      const bbg::Type type = rule.main == bbg::Type::bytes && bytes_.ConsumeBool() ? rule.main : bbg::Type::real;
      op.shortcut = of(type, fits).name.c_str();
    }
    tensors(rule, main, channels, op);
    const bool clipped = !op.acc_threshold.data && bytes_.ConsumeBool();
    op.low = clipped ? float(-bytes_.ConsumeIntegralInRange(0, 3)) : -std::numeric_limits<float>::infinity();
    op.high = clipped ? float(bytes_.ConsumeIntegralInRange(0, 3)) : std::numeric_limits<float>::infinity();
    if (bbg_graph_add(graph_, &op)) {
      op.shortcut = nullptr, op.epilogue[BBG_GATE] = {};  // whose map may be another
      if (bbg_graph_add(graph_, &op)) return;
    }
    ++ops_;
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
    if (odd_) return;
    // What fits the map, which several random numbers together seldom do.
    if (rule.attributes & bbg::kGroups && (main.channels % to.groups || to.channels % to.groups)) to.groups = 1;
    const int64_t map[] = {main.height, main.width};
    for (int axis = 0; axis < 2 && rule.attributes & bbg::kKernel; ++axis) {
      to.padding[axis] = std::min(to.padding[axis], to.kernel[axis] / 2);
      const int64_t room = map[axis] + 2 * to.padding[axis], pool = std::max(int64_t{1}, map[axis]);
      to.kernel[axis] = std::min(to.kernel[axis], room);
      if ((to.kernel[axis] - 1) * to.dilation[axis] + 1 > room || to.dilation[axis] > pool) to.dilation[axis] = 1;
    }
  }

  void tensors(const bbg::KindRule& rule, const Value& main, int64_t channels, bbg_op& op) {
    const bbg_attributes& a = op.attributes;
    const bool window = rule.attributes & bbg::kKernel;
    const int64_t taps = window ? product({a.kernel[0], a.kernel[1]}) : 1;
    const int64_t inputs = rule.attributes & bbg::kGroups && a.groups > 0 ? main.channels / a.groups : main.channels;
    for (const bbg::TensorRule& tensor : bbg::kTensors) {
      const bool required = rule.required & tensor.bit;
      const bool plain = tensor.bit == bbg::kAccThreshold && !odd_;  // nothing but a threshold: see below
      if (!required && (plain || !(rule.optional & tensor.bit && bytes_.ConsumeBool()))) continue;
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
      if (!odd_ && r == BBG_GATE && !op.shortcut) continue;
      if (rule.epilogue >> r & 1 && bytes_.ConsumeBool()) op.epilogue[r] = array(bbg::Element::float32, channels);
    }
    if (!odd_ && rule.optional & bbg::kAccThreshold && op.bits && bytes_.ConsumeBool()) {
      for (bbg_array& given : op.epilogue) given = {};
      op.real = op.bytes = op.shortcut = nullptr, op.tap_bias = {};
      op.acc_threshold = array(bbg::Element::int32, channels);
    }
  }

  void run_engine(const Value& input, const std::vector<int64_t>& outputs) {
    const char *set = nullptr, *chosen = nullptr;
    int supported = 0;
    const int number = bytes_.ConsumeIntegralInRange(0, 4);
    if (!bbg_kernel_set(number, &set, &supported) || !supported) set = nullptr;
    const bool unknown = odd_ && bytes_.ConsumeIntegralInRange(0, 15) == 15;
    double gmacs;
    if (bbg_choose_kernel_set(unknown ? "none" : set, &chosen) == nullptr && unknown) std::abort();
    if (unknown && !bbg_roofline("none", &gmacs)) std::abort();
    bbg_limits limits{int64_t{64} << 20, int64_t{20000000}};
    if (odd_ && bytes_.ConsumeBool()) limits.memory >>= bytes_.ConsumeIntegralInRange(0, 20);
    if (odd_ && bytes_.ConsumeBool()) limits.operations >>= bytes_.ConsumeIntegralInRange(0, 20);
    const int threads =
        odd_ ? bytes_.PickValueInArray({1, 1, 1, 1, 1, 3, 0, 5000}) : bytes_.PickValueInArray({1, 1, 1, 1, 1, 1, 1, 3});
    Patience patience{odd_ && bytes_.ConsumeIntegralInRange(0, 15) == 15 ? 0 : 1 << 30};
    bbg_engine* engine = nullptr;
    if (bbg_engine_new(graph_, set, threads, &limits, Patience::ended, &patience, &engine)) return;
    size_t constants, workspace;
    bbg_engine_bytes(engine, &constants, &workspace);
    if (!bbg_engine_isa(engine) || constants + workspace > size_t(limits.memory)) std::abort();
    if (odd_ && bytes_.ConsumeBool()) {  // no memory for a second caller, who waits
      limits.memory = int64_t(constants + workspace);
      bbg_engine_free(engine);
      if (bbg_engine_new(graph_, set, threads, &limits, nullptr, nullptr, &engine)) return;
    }
    call(engine, input, outputs, ops_);
    bbg_engine_free(engine);
  }

  struct Patience {
    int left;
    static int ended(void* of) { return static_cast<Patience*>(of)->left-- <= 0; }
  };

  // Room for the answers of some images.
  struct Answer {
    std::vector<float> numbers;
    std::vector<float*> to;
    std::vector<size_t> counts;

    Answer(const std::vector<int64_t>& outputs, int64_t images) {
      size_t all = 0;
      for (int64_t count : outputs) all += size_t(images * count);
      numbers.resize(all);
      float* at = numbers.data();
      for (int64_t count : outputs) {
        to.push_back(at);
        counts.push_back(size_t(images * count));
        at += images * count;
      }
    }
  };

  void call(bbg_engine* engine, const Value& input, const std::vector<int64_t>& outputs, int ops) {
    const bbg_input kind = bytes_.ConsumeBool() ? BBG_BYTE_NHWC : BBG_FLOAT_NCHW;
    const int64_t images = bytes_.ConsumeIntegralInRange(1, 3), numbers = images * input.numbers();
    std::vector<float> floats(kind == BBG_FLOAT_NCHW ? size_t(numbers) : 0), scale(size_t(input.channels), 0.01f);
    std::vector<uint8_t> data(kind == BBG_BYTE_NHWC ? size_t(numbers) : 0);
    for (float& x : floats) x = float(int32_t(random_() % 4097) - 2048) / 1024;
    for (uint8_t& x : data) x = uint8_t(random_());
    const void* const from = kind == BBG_FLOAT_NCHW ? static_cast<const void*>(floats.data()) : data.data();
    const size_t bytes = kind == BBG_FLOAT_NCHW ? floats.size() * sizeof(float) : data.size();
    const auto run = [&](Answer& answer, double* seconds, Patience patience) {
      return bbg_engine_run(engine, kind, from, bytes, images, scale.data(), scale.data(), answer.to.data(),
                            answer.counts.data(), seconds, Patience::ended, &patience);
    };
    const Patience patient{1 << 30};
    Answer first(outputs, images), again(outputs, images), beside(outputs, images);
    std::thread other;
    if (bytes_.ConsumeIntegral<uint8_t>() < 32) other = std::thread([&] { run(beside, nullptr, patient); });
    const bool fails = run(first, nullptr, patient);
    std::vector<double> seconds(size_t(ops), 0.0);
    run(again, bytes_.ConsumeBool() ? seconds.data() : nullptr, patient);
    if (other.joinable()) {
      other.join();
      same(first, beside);
    }
    same(first, again);
    if (!odd_) return;
    // What must be refused, and what may be.
    if (!run(again, nullptr, {0}) && !fails) same(first, again);
    if (again.counts[0]) --again.counts[0];
    if (!run(again, nullptr, patient)) std::abort();
    const int wrong = bytes_.ConsumeIntegral<int>();
    const size_t fewer = bytes_.ConsumeIntegralInRange<size_t>(0, bytes);
    const float* const none = bytes_.ConsumeBool() ? nullptr : scale.data();
    if (wrong != kind || fewer != bytes) {
      const char* said = bbg_engine_run(engine, wrong, from, fewer, images, none, none, first.to.data(),
                                        first.counts.data(), nullptr, nullptr, nullptr);
      if (wrong == kind && !said) std::abort();
    }
  }

  static void same(const Answer& a, const Answer& b) {
    if (std::memcmp(a.numbers.data(), b.numbers.data(), a.numbers.size() * sizeof(float))) std::abort();
  }

  FuzzedDataProvider& bytes_;
  std::minstd_rand random_;
  const bool odd_;  // whether anything may be out of the ordinary
  int ops_ = 0;
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
