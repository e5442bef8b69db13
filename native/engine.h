// An engine: a program with what its calls need, ready to run images.
#pragma once

#include <atomic>
#include <vector>

#include "graph.h"
#include "io.h"
#include "kernels/kernels.h"
#include "program.h"
#include "seats.h"
#include "stop.h"

namespace bbg {

class Engine {
 public:
  Engine(const Graph& graph, const Kernels& kernels, int threads, const Limits& limits, StopRequest& stop);
  ~Engine();

  const char* isa() const { return kernels_.name; }
  int64_t constant_bytes() const { return program_.constants.bytes(); }
  int64_t workspace_bytes() const { return program_.workspace; }

  // See bbg_engine_run.
  void run(bbg_input kind, const void* data, size_t bytes, int64_t images, const float* scale, const float* bias,
           float* const* outputs, const size_t* counts, double* seconds, StopRequest& stop);

 private:
  struct Chunk;  // the images that go through the program together

  void check_run(const ImageBatch& batch, size_t bytes, int64_t images, float* const* outputs,
                 const size_t* counts) const;
  Seats& seats();
  void work(Chunk& chunk, int member);

  const Kernels& kernels_;
  const int members_;
  const int64_t memory_;  // the limit
  Program program_;
  InputPort input_;
  std::vector<OutputPort> outputs_;
  std::atomic<Seats*> seats_{nullptr};
};

}  // namespace bbg

struct bbg_engine {
  bbg::Engine engine;
};
