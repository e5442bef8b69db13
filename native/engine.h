// An engine: a checked graph lowered for one kernel set, with one workspace whose parts are reused by lifetime.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "plan/layout.h"
#include "team.h"

namespace bbg {

class Engine {
 public:
  Engine(const Graph& graph, const Kernels& kernels, int threads);
  ~Engine();

  const char* isa() const { return kernels_.name; }
  int64_t constant_bytes() const { return constants_.bytes(); }
  int64_t workspace_bytes() const { return workspace_.bytes(); }

  // See bbg_engine_run. Calls take turns: there is one workspace.
  void run(bbg_input kind, const void* data, size_t bytes, int64_t images, const float* scale, const float* bias,
           float* const* outputs, const size_t* counts, double* seconds);

 private:
  struct Shape {
    int64_t channels, height, width;
    int64_t numbers() const { return channels * height * width; }
  };
  struct Result {
    Shape shape;
    Map map;
    Type type;
  };
  struct Batch;  // what one round works on

  void plan(const Graph& graph);
  Team& team();
  static void program(void* batch, int member);
  void work(Batch& batch, int member);
  uint8_t* begin_row(int64_t row) const;
  void enter(Batch& batch, int64_t begin, int64_t end) const;
  void enter_bytes(Batch& batch, int64_t begin, int64_t end) const;
  void leave(const Batch& batch, int64_t image) const;

  const Kernels& kernels_;
  std::unique_ptr<Team> team_;
  pid_t process_;  // that started the team
  std::mutex turn_;
  Memory constants_, workspace_;
  int64_t round_ = 1;  // images per round
  Shape input_;
  Type input_type_ = Type::real;
  Map input_map_;
  std::vector<Step> steps_;
  std::vector<Result> results_;
};

// The kernel set called `name` (null: what BBG_ISA says, else the best); a Refusal where there is none.
const Kernels& choose_kernels(const char* name);

}  // namespace bbg

struct bbg_engine {
  bbg::Engine engine;
};
