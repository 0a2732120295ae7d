// Threads of the offline algorithms (GPTQ and its linear algebra). They run in the rewriter, outside any ORT session,
// so ORT's pool is not there to be used; work is handed out item by item because items differ in size.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace lowbit::offline {

// Calls body(item) for every item in [0, items), on up to `threads` threads, the caller's included. body must not
// throw.
inline void ForEach(int64_t items, int threads, const std::function<void(int64_t)>& body) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t item = next.fetch_add(1); item < items; item = next.fetch_add(1)) body(item);
  };
  const int helpers = static_cast<int>(items < threads ? items : threads) - 1;
  std::vector<std::thread> pool;
  for (int i = 0; i < helpers; i++) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
}

}  // namespace lowbit::offline
