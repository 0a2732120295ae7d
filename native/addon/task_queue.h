// Threads of one session. Runs block for as long as a model takes, so they get threads of their own: libuv's pool of
// four stays free for files and DNS, and a CUDA graph can be captured and replayed on one and the same thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lowbit::host {

class TaskQueue {
 public:
  /// Starts no thread yet; at most `max_threads` are started as tasks wait.
  explicit TaskQueue(size_t max_threads) : max_threads_(max_threads) {}
  ~TaskQueue() { CloseAndJoin(); }
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  /// Runs `task` on one of the threads, first come first served. False once closed: the task is not kept.
  bool Push(std::function<void()> task);

  /// Takes no more tasks, finishes those it has and ends its threads. Idempotent. Not to be called from a task.
  void CloseAndJoin();

 private:
  void Work();

  const size_t max_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool closed_ = false;
};

}  // namespace lowbit::host
