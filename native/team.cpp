#include "team.h"

namespace bbg {
namespace {

constexpr int kSpins = 1000;  // some 10 to 40 microseconds: longer than most layers are uneven

}  // namespace

Team::Team(int members) : members_(members) {
  try {
    for (int m = 1; m < members; ++m) threads_.emplace_back([this, m] { work(m); });
  } catch (...) {  // no thread to be had: end those that started
    stop_ = true;
    change(start_);
    for (auto& t : threads_) t.join();
    throw;
  }
}

Team::~Team() {
  stop_ = true;
  change(start_);
  for (auto& t : threads_) t.join();
}

void Team::run(Task task, void* context) {
  if (members_ > 1) {
    task_ = task;
    context_ = context;
    change(start_);
  }
  task(context, 0);
  barrier();
}

void Team::barrier() {
  if (members_ == 1) return;
  const unsigned phase = phase_.load();
  if (arrived_.fetch_add(1) + 1 == members_) {
    arrived_ = 0;
    change(phase_);
  } else {
    wait_change(phase_, phase);
  }
}

void Team::wait_change(const std::atomic<unsigned>& counter, unsigned seen) {
  for (int i = 0; i < kSpins; ++i) {
    if (counter.load() != seen) return;
    pause_core();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  ++sleeping_;
  changed_.wait(lock, [&] { return counter.load() != seen; });
  --sleeping_;
}

void Team::change(std::atomic<unsigned>& counter) {
  ++counter;  // sequentially consistent with sleeping_: either the sleeper sees the change or is seen here
  if (sleeping_ == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  changed_.notify_all();
}

void Team::work(int member) {
  for (unsigned seen = 0;; ++seen) {
    wait_change(start_, seen);
    if (stop_) return;
    task_(context_, member);
    barrier();
  }
}

}  // namespace bbg
