#include "seats.h"

#include <algorithm>
#include <chrono>
#include <exception>

namespace bbg {
namespace {

// Calls of one thread: more than there are processors, since one that has lost its processor to a thread without a seat
// keeps its own meanwhile. With one seat for each, eight callers of small networks got 0.8 of what they got with eight
// engines, with two 0.95, with four all of it. Teams of several threads wait for each other, and must not share.
size_t most_seats(int members) {
  constexpr unsigned kSingle = 4;
  const unsigned processors = std::max(std::thread::hardware_concurrency(), 1u);
  return members == 1 ? kSingle * processors : std::max(processors / unsigned(members), 1u);
}

}  // namespace

Seats::Seats(const Program& program, int members, int64_t memory)
    : program_(program), members_(members), workspaces_(memory, program.constants.bytes()), most_(most_seats(members)) {
  add();
}

void Seats::add() {
  all_.reserve(all_.size() + 1), free_.reserve(all_.size() + 1);
  all_.push_back(std::make_unique<Seat>(members_, make_workspace(program_, workspaces_)));
  free_.push_back(all_.back().get());
}

Seats::Taken Seats::take(StopRequest& stop) {
  const std::thread::id me = std::this_thread::get_id();
  std::unique_lock<std::mutex> lock(mutex_);
  for (const auto& seat : all_) {
    if (seat->caller == me) throw InvalidArgument("a signal handler called the engine whose run it interrupts");
  }
  while (free_.empty()) {
    if (all_.size() < most_) {
      try {
        add();
      } catch (const std::exception&) {  // no memory or no thread for one more
        most_ = all_.size();
      }
      continue;
    }
    // By the system's clock, whose wait the thread sanitizer knows.
    left_.wait_until(lock, std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    if (!free_.empty()) break;
    lock.unlock();  // the answer may take a while
    stop.check();
    lock.lock();
  }
  Seat& seat = *free_.back();
  free_.pop_back();
  seat.caller = me;
  return Taken(&seat, Leave{this});
}

void Seats::leave(Seat& seat) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    seat.caller = {};
    free_.push_back(&seat);
  }
  left_.notify_one();
}

}  // namespace bbg
