// A team of threads that run one task together, meeting at barriers. Waits spin briefly, then sleep: a spinning wait
// loses a whole time slice when a core is shared.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "platform.h"

namespace bbg {

class Team {
 public:
  using Task = void (*)(void* context, int member);

  explicit Team(int members);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int members() const { return members_; }

  // Every member runs task(context, member); the caller is member 0. Returns when all are done.
  void run(Task task, void* context);

  // Called by every member inside a task: returns when all have arrived.
  void barrier();

 private:
  // Waits until `counter` differs from `seen`.
  void wait_change(const std::atomic<unsigned>& counter, unsigned seen);
  void change(std::atomic<unsigned>& counter);
  void work(int member);

  const int members_;
  // Cache lines of their own: who waits for the phase reads it all the time, which would keep others from arriving.
  alignas(kCacheLine) std::atomic<unsigned> phase_{0};
  alignas(kCacheLine) std::atomic<int> arrived_{0}, sleeping_{0};
  alignas(kCacheLine) std::atomic<unsigned> start_{0};
  std::atomic<bool> stop_{false};
  Task task_ = nullptr;
  void* context_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> threads_;
};

}  // namespace bbg
