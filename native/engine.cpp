#include "engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <mutex>
#include <string>
#include <thread>

namespace bbg {
namespace {

constexpr char kInterrupted[] = "interrupted";

int64_t share(int64_t items, int member, int members) { return items * member / members; }

// A member's part of a call: the same rows of every block, so that it finds in its own cache what it wrote there,
// unless so few rows cannot be shared evenly. Then all items in their order, which shares the blocks.
void run_share(const KernelCall& call, int64_t images, int member, int members) {
  constexpr int64_t kUneven = 20;  // a twentieth more for the one who has most is still worth it
  const int64_t rows = call.images_as_columns ? 1 : images * call.rows, most = (rows + members - 1) / members;
  const bool by_rows = (most * members - rows) * kUneven <= rows;
  const int64_t blocks = by_rows ? call.blocks : 1, items = by_rows ? rows : rows * call.blocks;
  const int64_t begin = share(items, member, members), end = share(items, member + 1, members);
  for (int64_t b = 0; b < blocks && begin < end; ++b) {
    call.run(call.args, images, b * rows + begin, b * rows + end, member);
  }
}

}  // namespace

struct Engine::Chunk {
  Engine* engine;
  Team* team;
  StopRequest* stop;
  ImageBatch batch;
  int64_t images, first;  // how many, and how many before them
  float* const* outputs;
  double* seconds;
  std::atomic<bool> finite{true};
  std::atomic<int> last{INT_MAX};  // number of the call behind which all stop
};

// The threads that run an engine, and the turns of its callers. A fork takes along the thread that forks and no other:
// the child's copy of the lock may be held by one that does not exist there, and the team has nobody in it.
struct Engine::Crew {
  explicit Crew(int members) : team(members) {}

  const ProcessId process = process_id();
  std::timed_mutex turn;
  std::atomic<std::thread::id> runs{};  // the thread whose turn it is
  Team team;
};

// States who runs the engine, for as long as it lives.
class Running {
 public:
  Running(std::atomic<std::thread::id>& who, std::thread::id me) : who_(who) { who_ = me; }
  ~Running() { who_ = std::thread::id(); }

 private:
  std::atomic<std::thread::id>& who_;
};

bool StopRequest::asked() {
  if (!stop_) return false;
  const int64_t now = coarse_milliseconds();
  if (now < next_) return false;
  next_ = now + kApart;
  return stop_(context_) != 0;
}

Engine::Engine(const Graph& graph, const Kernels& kernels, int threads, const Limits& limits)
    : kernels_(kernels),
      program_(compile(graph, kernels, threads, limits)),
      input_{graph.values[0], graph.values[0].type, program_.layouts[0]} {
  for (const Output& output : graph.outputs) {
    outputs_.push_back(output_port(graph, output, program_.layouts, kernels));
  }
  crew_ = new Crew(threads);  // last: nothing behind it throws
}

Engine::~Engine() {
  Crew* crew = crew_;
  if (crew->process == process_id()) delete crew;
}

// A forked child makes a crew of its own. That of the parent can be neither used nor ended there.
Engine::Crew& Engine::crew() {
  Crew* known = crew_;
  if (known->process != process_id()) {
    auto own = std::make_unique<Crew>(known->team.members());
    if (crew_.compare_exchange_strong(known, own.get())) return *own.release();
  }
  return *known;  // which another thread of the child may have made just now
}

void Engine::check_run(const ImageBatch& batch, size_t bytes, int64_t images, float* const* outputs,
                       const size_t* counts) const {
  const size_t image = size_t(input_.shape.numbers()) * batch.number_size();
  if (images < 1) throw InvalidArgument("there must be at least one image");
  if (!batch.data || bytes / image != size_t(images) || bytes % image) {
    throw InvalidArgument("the input has " + std::to_string(bytes) + " bytes, not " + std::to_string(images) +
                          " times " + std::to_string(image));
  }
  if (batch.converts(input_.type) && !(batch.scale && batch.bias)) {
    throw InvalidArgument("bytes for a real input, or the reverse, need a scale and a bias");
  }
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (!outputs[i] || counts[i] / size_t(outputs_[i].numbers) < size_t(images)) {
      throw InvalidArgument("an output has too little room");
    }
  }
}

void Engine::run(bbg_input kind, const void* data, size_t bytes, int64_t images, const float* scale, const float* bias,
                 float* const* outputs, const size_t* counts, double* seconds, StopRequest& stop) {
  ImageBatch batch{kind, static_cast<const uint8_t*>(data), scale, bias};
  check_run(batch, bytes, images, outputs, counts);
  Crew& crew = this->crew();
  std::unique_lock<std::timed_mutex> turn(crew.turn, std::defer_lock);
  const std::thread::id me = std::this_thread::get_id();
  if (crew.runs == me) throw InvalidArgument("a signal handler called the engine whose run it interrupts");
  // By the system's clock, whose wait the thread sanitizer knows.
  while (!turn.try_lock_until(std::chrono::system_clock::now() + std::chrono::milliseconds(100))) {
    if (stop.asked()) throw InvalidArgument(kInterrupted);
  }
  const Running running(crew.runs, me);
  for (int64_t first = 0; first < images; first += program_.chunk) {
    Chunk chunk{this, &crew.team, &stop, batch, std::min(program_.chunk, images - first), first, outputs, seconds};
    const auto task = [](void* context, int member) {
      Chunk& c = *static_cast<Chunk*>(context);
      c.engine->work(c, member);
    };
    crew.team.run(task, &chunk);
    if (!chunk.finite) throw InvalidArgument("the input holds a NaN or an infinity; give finite numbers");
    if (chunk.last != INT_MAX) throw InvalidArgument(kInterrupted);
    batch.data += size_t(chunk.images) * size_t(input_.shape.numbers()) * batch.number_size();
  }
}

void Engine::work(Chunk& chunk, int member) {
  using Clock = std::chrono::steady_clock;
  Team& team = *chunk.team;
  const int members = team.members();
  const int64_t rows = chunk.images * input_.shape.height;
  const int64_t begin = share(rows, member, members), end = share(rows, member + 1, members);
  if (!write_input(input_, chunk.batch, begin, end)) chunk.finite = false;
  team.barrier();
  if (!chunk.finite) return;
  const bool timed = chunk.seconds && member == 0;
  Clock::time_point last = timed ? Clock::now() : Clock::time_point{};
  for (int i = 0; i < int(program_.calls.size()); ++i) {
    const KernelCall& call = program_.calls[size_t(i)];
    run_share(call, chunk.images, member, members);
    // A member that is late at this barrier may see what the caller writes ahead of the next one: hence the number.
    if (member == 0 && chunk.stop->asked()) chunk.last = i;
    team.barrier();
    if (chunk.last <= i) return;
    if (timed) {
      const auto now = Clock::now();
      chunk.seconds[call.op] += std::chrono::duration<double>(now - last).count();
      last = now;
    }
  }
  for (int64_t n = share(chunk.images, member, members); n < share(chunk.images, member + 1, members); ++n) {
    for (size_t i = 0; i < outputs_.size(); ++i) {
      read_output(outputs_[i], n, chunk.outputs[i] + (chunk.first + n) * outputs_[i].numbers);
    }
  }
}

}  // namespace bbg
