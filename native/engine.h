// An engine: a program with its team of threads, ready to run images.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "graph.h"
#include "io.h"
#include "kernels/kernels.h"
#include "platform.h"
#include "program.h"
#include "team.h"

namespace bbg {

// Whether the caller wants the run to end: asked about every tenth of a second, by the caller's thread only.
class StopRequest {
 public:
  StopRequest(int (*stop)(void* context), void* context) : stop_(stop), context_(context) {}

  bool asked();

 private:
  int (*stop_)(void* context);
  void* context_;
  int64_t next_ = coarse_milliseconds() + kApart;  // when to ask again

  static constexpr int64_t kApart = 100;
};

class Engine {
 public:
  Engine(const Graph& graph, const Kernels& kernels, int threads, const Limits& limits);
  ~Engine();

  const char* isa() const { return kernels_.name; }
  int64_t constant_bytes() const { return program_.constants.bytes(); }
  int64_t workspace_bytes() const { return program_.workspace.bytes(); }

  // See bbg_engine_run. Calls take turns: there is one workspace.
  void run(bbg_input kind, const void* data, size_t bytes, int64_t images, const float* scale, const float* bias,
           float* const* outputs, const size_t* counts, double* seconds, StopRequest& stop);

 private:
  struct Chunk;  // the images that go through the program together
  struct Crew;   // what belongs to one process

  void check_run(const ImageBatch& batch, size_t bytes, int64_t images, float* const* outputs,
                 const size_t* counts) const;
  Crew& crew();
  void work(Chunk& chunk, int member);

  const Kernels& kernels_;
  std::atomic<Crew*> crew_{nullptr};
  Program program_;
  InputPort input_;
  std::vector<OutputPort> outputs_;
};

}  // namespace bbg

struct bbg_engine {
  bbg::Engine engine;
};
