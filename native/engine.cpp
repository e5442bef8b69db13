#include "engine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace bbg {
namespace {

constexpr int64_t kRoundBytes = int64_t{1} << 20;  // of workspace for the images of a round: it should stay in the cache
constexpr int64_t kSlack = 64;                     // behind each value, for reads of whole words

// A stretch of the workspace, needed from op `first` to op `last`.
struct Span {
  int64_t bytes;
  int first, last;
  int64_t offset;
};

// First fit in the order given; returns the bytes needed in all.
int64_t place(std::vector<Span>& spans) {
  int64_t total = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    std::vector<const Span*> busy;
    for (size_t j = 0; j < i; ++j) {
      if (spans[j].first <= spans[i].last && spans[i].first <= spans[j].last) busy.push_back(&spans[j]);
    }
    std::sort(busy.begin(), busy.end(), [](const Span* a, const Span* b) { return a->offset < b->offset; });
    int64_t at = 0;
    for (const Span* other : busy) {
      if (at + spans[i].bytes <= other->offset) break;
      at = std::max(at, other->offset + other->bytes);
    }
    spans[i].offset = at;
    total = std::max(total, at + spans[i].bytes);
  }
  return total;
}

// Which value's memory each value lives in: its own, that of a value it only repeats, or that of the shortcut it is
// added to, where nobody needs that any more.
std::vector<int> homes(const Graph& graph, const Maps& maps, int lanes) {
  std::vector<int> home(maps.size()), last(maps.size(), kNone);
  for (size_t v = 0; v < home.size(); ++v) home[v] = int(v);
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    if (only_repeats(graph, graph.ops[i], lanes)) home[size_t(graph.ops[i].real)] = home[size_t(graph.ops[i].input())];
  }
  const auto read = [&](int v, int op) { last[size_t(home[size_t(v)])] = op; };
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    for (int v : graph.ops[i].operands) read(v, int(i));
    if (graph.ops[i].shortcut != kNone) read(graph.ops[i].shortcut, int(i));
  }
  for (int v : graph.outputs) read(v, int(graph.ops.size()));

  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (op.shortcut == kNone || op.real == kNone) continue;
    const Map &from = maps[size_t(op.shortcut)], &to = maps[size_t(op.real)];
    const int shared = home[size_t(op.shortcut)];
    const bool alike = from.pixel == to.pixel && from.left == to.left && from.right == to.right &&
                       from.channels == maps[size_t(shared)].channels;
    const bool read_too = std::any_of(op.operands.begin(), op.operands.end(), [&](int v) { return home[size_t(v)] == shared; });
    if (!alike || last[size_t(shared)] != int(i) || read_too) continue;
    last[size_t(shared)] = last[size_t(op.real)];
    for (int& h : home) {
      if (h == op.real) h = shared;
    }
  }
  return home;
}

int64_t share(int64_t items, int member, int members) { return items * member / members; }

// A member's part of a step: the same rows of every block, so that it finds in its own cache what it wrote there, unless
// so few rows cannot be shared evenly. Then all items in their order, which shares the blocks.
void run_share(const Step& s, int64_t images, int member, int members) {
  constexpr int64_t kUneven = 20;  // a twentieth more for the one who has most is still worth it
  const int64_t rows = s.together ? 1 : images * s.rows, most = (rows + members - 1) / members;
  const bool by_rows = (most * members - rows) * kUneven <= rows;
  const int64_t blocks = by_rows ? s.blocks : 1, items = by_rows ? rows : rows * s.blocks;
  const int64_t begin = share(items, member, members), end = share(items, member + 1, members);
  for (int64_t b = 0; b < blocks && begin < end; ++b) s.run(s.args, images, b * rows + begin, b * rows + end, member);
}

}  // namespace

struct Engine::Batch {
  Engine* engine;
  bbg_input kind;
  const uint8_t* data;
  int64_t images;
  const float *scale, *bias;
  float* const* outputs;
  int64_t first;  // number of images before this round
  double* seconds;
  std::atomic<bool> finite{true};
};

Engine::Engine(const Graph& graph, const Kernels& kernels, int threads) : kernels_(kernels), team_(std::make_unique<Team>(threads)), process_(getpid()) {
  plan(graph);
}

Engine::~Engine() {
  if (process_ != getpid()) (void)team_.release();
}

// A fork takes the caller along and leaves its team behind: the child needs one of its own. That of the parent can be
// neither used nor ended there, for its threads do not exist.
Team& Engine::team() {
  if (process_ != getpid()) {
    auto own = std::make_unique<Team>(team_->members());
    (void)team_.release();
    team_ = std::move(own);
    process_ = getpid();
  }
  return *team_;
}

void Engine::plan(const Graph& graph) {
  Maps maps = lay_out(graph, kernels_);
  const std::vector<int> home = homes(graph, maps, kernels_.lanes);
  const int last_op = int(graph.ops.size());
  std::vector<Span> spans;
  for (size_t v = 0; v < maps.size(); ++v) {
    const int writer = graph.values[v].writer;
    const bool kept = home[v] == int(v) && (writer == kNone || pool_behind(graph, writer) == kNone);
    spans.push_back({kept ? maps[v].image : 0, writer, writer, 0});
  }
  const auto needed = [&](int v, int op) {
    int& last = spans[size_t(home[size_t(v)])].last;
    last = std::max(last, op);
  };
  for (int i = 0; i < last_op; ++i) {
    const Op& op = graph.ops[size_t(i)];
    const int until = std::max(i, pool_behind(graph, i));
    for (int v : op.operands) needed(v, until);
    for (int v : {op.shortcut, op.real}) {
      if (v != kNone) needed(v, until);
    }
    spans.push_back({scratch_bytes(graph, op, maps, kernels_), i, i, 0});
  }
  for (int v : graph.outputs) needed(v, last_op);

  int64_t per_image = 1;
  for (const Span& s : spans) per_image = std::min(per_image + s.bytes, kMemoryLimit);
  round_ = std::clamp<int64_t>(kRoundBytes / per_image, 1, kRoundImages);
  for (Span& s : spans) s.bytes = round_up(s.bytes * round_ + kSlack, 64);
  const int64_t total = place(spans);
  auto* base = static_cast<uint8_t*>(workspace_.allocate(total, 1, false));  // pages are taken when first used

  for (size_t v = 0; v < maps.size(); ++v) {
    const size_t h = size_t(home[v]);
    maps[v] = maps[h];
    maps[v].data = base + spans[h].offset + maps[h].left;
  }
  for (int i = 0; i < last_op; ++i) {
    if (only_repeats(graph, graph.ops[size_t(i)], kernels_.lanes)) continue;
    uint8_t* scratch = base + spans[maps.size() + size_t(i)].offset;
    lower(graph, i, maps, scratch, kernels_, team_->members(), constants_, steps_);
  }
  const auto shape = [](const Value& v) { return Shape{v.channels, v.height, v.width}; };
  input_ = shape(graph.values[0]);
  input_type_ = graph.values[0].type;
  input_map_ = maps[0];
  for (int v : graph.outputs) {
    results_.push_back({shape(graph.values[size_t(v)]), maps[size_t(v)], graph.values[size_t(v)].type});
  }
}

void Engine::run(bbg_input kind, const void* data, size_t bytes, int64_t images, const float* scale, const float* bias,
                 float* const* outputs, const size_t* counts, double* seconds) {
  const size_t size = kind == BBG_FLOAT_NCHW ? sizeof(float) : 1, image = size_t(input_.numbers()) * size;
  if (images < 1) throw Refusal("there must be at least one image");
  if (!data || bytes / image != size_t(images) || bytes % image) {
    throw Refusal("the input has " + std::to_string(bytes) + " bytes, not " + std::to_string(images) + " times " +
                  std::to_string(image));
  }
  const bool converts = (kind == BBG_BYTE_NHWC) != (input_type_ == Type::bytes);
  if (converts && !(scale && bias)) throw Refusal("bytes for a real input, or the reverse, need a scale and a bias");
  for (size_t i = 0; i < results_.size(); ++i) {
    const size_t numbers = size_t(results_[i].shape.numbers());
    if (!outputs[i] || counts[i] / numbers < size_t(images)) throw Refusal("an output has too little room");
  }
  const std::lock_guard<std::mutex> turn(turn_);
  for (int64_t first = 0; first < images; first += round_) {
    const auto* from = static_cast<const uint8_t*>(data) + size_t(first) * image;
    Batch batch{this, kind, from, std::min(round_, images - first), scale, bias, outputs, first, seconds};
    team().run(program, &batch);
    if (!batch.finite) throw Refusal("the input holds a NaN or an infinity");
  }
}

void Engine::program(void* batch, int member) {
  Batch& b = *static_cast<Batch*>(batch);
  b.engine->work(b, member);
}

void Engine::work(Batch& batch, int member) {
  using Clock = std::chrono::steady_clock;
  const int members = team_->members();
  const int64_t rows = batch.images * input_.height;
  enter(batch, share(rows, member, members), share(rows, member + 1, members));
  team_->barrier();
  if (!batch.finite) return;
  const bool timed = batch.seconds && member == 0;
  Clock::time_point last = timed ? Clock::now() : Clock::time_point{};
  for (const Step& s : steps_) {
    run_share(s, batch.images, member, members);
    team_->barrier();
    if (timed) {
      const auto now = Clock::now();
      batch.seconds[s.op] += std::chrono::duration<double>(now - last).count();
      last = now;
    }
  }
  for (int64_t n = share(batch.images, member, members); n < share(batch.images, member + 1, members); ++n) {
    leave(batch, n);
  }
}

// Pixel 0 of a row of the input, counted through all images, between margins of zeros.
uint8_t* Engine::begin_row(int64_t row) const {
  const Map& m = input_map_;
  uint8_t* to = m.data + row / input_.height * m.image + row % input_.height * m.row;
  std::memset(to - m.left, 0, size_t(m.left));
  std::memset(to + input_.width * m.pixel, 0, size_t(m.right));
  return to;
}

// Rows of the input into the workspace.
void Engine::enter(Batch& batch, int64_t begin, int64_t end) const {
  if (input_type_ == Type::bytes) return enter_bytes(batch, begin, end);
  const auto [channels, height, width] = input_;
  const int64_t step = input_map_.pixel / int64_t(sizeof(float));
  bool finite = true;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / height, y = row % height;
    float* pixels = reinterpret_cast<float*>(begin_row(row));
    for (int64_t c = 0; c < channels; ++c) {
      if (batch.kind == BBG_BYTE_NHWC) {
        const uint8_t* from = batch.data + row * width * channels + c;
        for (int64_t x = 0; x < width; ++x) {
          pixels[x * step + c] = batch.scale[c] * float(from[x * channels]) + batch.bias[c];
        }
        continue;
      }
      const uint8_t* from = batch.data + ((n * channels + c) * height + y) * width * int64_t(sizeof(float));
      for (int64_t x = 0; x < width; ++x) {
        float value;
        std::memcpy(&value, from + x * int64_t(sizeof value), sizeof value);
        finite &= bool(std::isfinite(value));
        pixels[x * step + c] = value;
      }
    }
  }
  if (!finite) batch.finite = false;
}

// The same where the network computes with bytes: a number x becomes the byte next to (x - bias) / scale.
void Engine::enter_bytes(Batch& batch, int64_t begin, int64_t end) const {
  const auto [channels, height, width] = input_;
  const int64_t size = input_map_.pixel / channels;  // of a number
  bool finite = true;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / height, y = row % height;
    uint8_t* to = begin_row(row);
    if (batch.kind == BBG_BYTE_NHWC) {
      const uint8_t* from = batch.data + row * width * channels;
      if (size == 1) std::memcpy(to, from, size_t(width * channels));
      for (int64_t i = 0; size == 2 && i < width * channels; ++i) to[2 * i] = from[i], to[2 * i + 1] = 0;
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const uint8_t* from = batch.data + ((n * channels + c) * height + y) * width * int64_t(sizeof(float));
      for (int64_t x = 0; x < width; ++x) {
        float value;
        std::memcpy(&value, from + x * int64_t(sizeof value), sizeof value);
        const bool sound = std::isfinite(value);
        finite &= sound;
        value = sound ? std::nearbyint((value - batch.bias[c]) / batch.scale[c]) : 0.0f;
        uint8_t* at = to + x * input_map_.pixel + c * size;
        at[0] = uint8_t(std::max(0.0f, std::min(255.0f, value)));
        if (size == 2) at[1] = 0;
      }
    }
  }
  if (!finite) batch.finite = false;
}

// One image of every output from the workspace.
void Engine::leave(const Batch& batch, int64_t image) const {
  for (size_t i = 0; i < results_.size(); ++i) {
    const Result& r = results_[i];
    const auto [channels, height, width] = r.shape;
    float* to = batch.outputs[i] + (batch.first + image) * r.shape.numbers();
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < height; ++y) {
        const uint8_t* row = r.map.data + image * r.map.image + y * r.map.row;
        for (int64_t x = 0; x < width; ++x) {
          const uint8_t* pixel = row + x * r.map.pixel;
          if (r.type == Type::real) *to++ = reinterpret_cast<const float*>(pixel)[c];
          if (r.type == Type::bits) *to++ = pixel[c / 8] >> c % 8 & 1 ? 1.0f : -1.0f;
          if (r.type == Type::bytes) *to++ = pixel[c * kernels_.byte_size];
        }
      }
    }
  }
}

const Kernels& choose_kernels(const char* name) {
  if (!name) name = std::getenv("BBG_ISA");
  std::string known;
  const KernelSet* sets = kernel_sets();
  for (int i = 0; i < kKernelSets; ++i) {
    if (!sets[i].kernels) continue;
    if (!name || !std::strcmp(sets[i].name, name)) return *sets[i].kernels;
    known += (known.empty() ? "" : ", ") + std::string(sets[i].name);
  }
  throw Refusal("BBG_ISA is '" + std::string(name) + "'; this machine has " + known + ": set it to one of them or unset it");
}

}  // namespace bbg
