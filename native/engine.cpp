#include "engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <memory>
#include <string>

namespace bbg {
namespace {

int64_t share(int64_t items, int64_t member, int64_t members) { return items * member / members; }

// A member's part of a call: the same rows of every block, so that it finds in its own cache what it wrote there,
// unless so few rows cannot be shared evenly. Then all items in their order, which shares the blocks. Between pieces of
// it, whether it has `ended` is asked.
template <class Ended>
void run_share(const KernelCall& call, const Worker& worker, int64_t images, int members, Ended ended) {
  constexpr int64_t kUneven = 20;  // a twentieth more for the one who has most is still worth it
  const int64_t rows = call.images_as_columns ? 1 : images * call.rows, most = (rows + members - 1) / members;
  const bool by_rows = (most * members - rows) * kUneven <= rows;
  const int64_t blocks = by_rows ? call.blocks : 1, items = by_rows ? rows : rows * call.blocks;
  const int64_t begin = share(items, worker.member, members);
  const int64_t end = share(items, worker.member + 1, members);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t from = begin, to; from < end; from = to) {
      if ((b || from > begin) && ended()) return;
      to = end - from > call.piece ? from + call.piece : end;
      call.run(call.args, worker, images, b * rows + from, b * rows + to);
    }
  }
}

}  // namespace

struct Engine::Chunk {
  Engine* engine;
  Seat* seat;
  StopRequest* stop;
  ImageBatch batch;
  int64_t images, first;  // how many, and how many before them
  float* const* outputs;
  double* seconds;
  std::atomic<bool> finite{true};
  std::atomic<bool> ended{false};  // whether the caller wants no more of the present call
  std::atomic<int> last{INT_MAX};  // number of the call behind which all stop
};

Engine::Engine(const Graph& graph, const Kernels& kernels, int threads, const Limits& limits, StopRequest& stop)
    : kernels_(kernels),
      members_(threads),
      memory_(limits.memory),
      program_(compile(graph, kernels, threads, limits, stop)),
      input_{graph.values[0], graph.values[0].type, program_.layouts[0]} {
  for (const Output& output : graph.outputs) {
    outputs_.push_back(output_port(graph, output, program_.layouts, kernels));
  }
  seats_ = new Seats(program_, members_, memory_);  // last: nothing behind it throws
}

Engine::~Engine() {
  Seats* seats = seats_;
  if (seats->are_ours()) delete seats;
}

// A forked child makes seats of its own. Those of the parent can be neither used nor ended there.
Seats& Engine::seats() {
  Seats* known = seats_;
  if (!known->are_ours()) {
    auto own = std::make_unique<Seats>(program_, members_, memory_);
    if (seats_.compare_exchange_strong(known, own.get())) return *own.release();
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
  const Seats::Taken seat = seats().take(stop);
  for (int64_t first = 0; first < images; first += program_.chunk) {
    Chunk chunk{this, seat.get(), &stop, batch, std::min(program_.chunk, images - first), first, outputs, seconds};
    const auto task = [](void* context, int member) {
      Chunk& c = *static_cast<Chunk*>(context);
      c.engine->work(c, member);
    };
    seat->team.run(task, &chunk);
    if (!chunk.finite) throw InvalidArgument("the input holds a NaN or an infinity; give finite numbers");
    if (chunk.last != INT_MAX) throw InvalidArgument(kInterrupted);
    batch.data += size_t(chunk.images) * size_t(input_.shape.numbers()) * batch.number_size();
  }
}

void Engine::work(Chunk& chunk, int member) {
  using Clock = std::chrono::steady_clock;
  Team& team = chunk.seat->team;
  const Worker worker{chunk.seat->workspace, member};
  const int members = team.members();
  const int64_t rows = chunk.images * input_.shape.height;
  const int64_t begin = share(rows, member, members), end = share(rows, member + 1, members);
  if (!write_input(input_, chunk.batch, worker.workspace, begin, end)) chunk.finite = false;
  team.barrier();
  if (!chunk.finite) return;
  const auto ended = [&] {
    if (member == 0 && chunk.stop->asked()) chunk.ended = true;
    return chunk.ended.load(std::memory_order_relaxed);
  };
  const bool timed = chunk.seconds && member == 0;
  Clock::time_point last = timed ? Clock::now() : Clock::time_point{};
  for (int i = 0; i < int(program_.calls.size()); ++i) {
    const KernelCall& call = program_.calls[size_t(i)];
    run_share(call, worker, chunk.images, members, ended);
    // A member that is late at this barrier may see what the caller writes ahead of the next one: hence the number.
    if (member == 0 && ended()) chunk.last = i;
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
      read_output(outputs_[i], worker.workspace, n, chunk.outputs[i] + (chunk.first + n) * outputs_[i].numbers);
    }
  }
}

}  // namespace bbg
