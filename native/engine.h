// An engine: a program with its team of threads, ready to run images.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "graph.h"
#include "io.h"
#include "kernels/kernels.h"
#include "platform.h"
#include "program.h"
#include "team.h"

namespace bbg {

class Engine {
 public:
  Engine(const Graph& graph, const Kernels& kernels, int threads);
  ~Engine();

  const char* isa() const { return kernels_.name; }
  int64_t constant_bytes() const { return program_.constants.bytes(); }
  int64_t workspace_bytes() const { return program_.workspace.bytes(); }

  // See bbg_engine_run. Calls take turns: there is one workspace.
  void run(bbg_input kind, const void* data, size_t bytes, int64_t images, const float* scale, const float* bias,
           float* const* outputs, const size_t* counts, double* seconds);

 private:
  struct Chunk;  // the images that go through the program together

  void check_run(const ImageBatch& batch, size_t bytes, int64_t images, float* const* outputs,
                 const size_t* counts) const;
  Team& team();
  void work(Chunk& chunk, int member);

  const Kernels& kernels_;
  std::unique_ptr<Team> team_;
  ProcessId process_;  // that started the team
  std::mutex turn_;
  Program program_;
  InputPort input_;
  std::vector<OutputPort> outputs_;
};

}  // namespace bbg

struct bbg_engine {
  bbg::Engine engine;
};
