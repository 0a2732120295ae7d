// Scratch memory that a thread keeps.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace lowbit {

/// 64-byte aligned memory that grows and is kept, for a thread_local: at the second run of a shape nothing is allocated
/// any more.
class Scratch {
 public:
  /// At least so many bytes, whose contents are not kept when it grows; nullptr when memory is short.
  void* Reserve(int64_t bytes) {
    if (bytes > bytes_) {
      const int64_t rounded = (bytes + 4095) / 4096 * 4096;
      memory_.reset(std::aligned_alloc(64, static_cast<size_t>(rounded)));
      bytes_ = memory_ ? rounded : 0;
    }
    return memory_.get();
  }

  /// Likewise for floats.
  float* Floats(int64_t count) { return static_cast<float*>(Reserve(count * static_cast<int64_t>(sizeof(float)))); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace lowbit
