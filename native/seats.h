// What calls of an engine that run at the same time have each to themselves.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "memory.h"
#include "platform.h"
#include "program.h"
#include "stop.h"
#include "team.h"

namespace bbg {

struct Seat {
  Seat(int members, uint8_t* memory) : team(members), workspace(memory) {}

  Team team;
  uint8_t* workspace;
  std::thread::id caller{};
};

// The seats of one process. There is one from the beginning. While all are taken, a call makes another one, up to as
// many as keep all processors busy and the limit has memory for; else it waits.
//
// A fork takes along the thread that forks and no other: the child's copy of the lock may be held by one that does not
// exist there, and the teams have nobody in them. So the child makes seats of its own.
class Seats {
 public:
  // `memory`: most bytes of the constants and of all workspaces together.
  Seats(const Program& program, int members, int64_t memory);

  bool are_ours() const { return process_ == process_id(); }

  struct Leave {
    Seats* seats;
    void operator()(Seat* seat) const { seats->leave(*seat); }
  };
  using Taken = std::unique_ptr<Seat, Leave>;

  // Throws InvalidArgument where the caller wants no more, and where it has a seat already: a handler of signals that
  // calls the engine whose run it interrupts could wait forever.
  Taken take(StopRequest& stop);

 private:
  void add();
  void leave(Seat& seat);

  const ProcessId process_ = process_id();
  const Program& program_;
  const int members_;
  Memory workspaces_;
  size_t most_;
  std::mutex mutex_;
  std::condition_variable left_;
  std::vector<std::unique_ptr<Seat>> all_;
  std::vector<Seat*> free_;  // the last one left is the first one taken: its workspace may still be in the cache
};

}  // namespace bbg
