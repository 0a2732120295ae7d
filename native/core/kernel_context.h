// What a kernel may ask while it runs: inputs, outputs, threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "native/core/ort_api.h"
#include "native/core/tensor_view.h"

namespace lowbit {

/// Memory for one run, of the session's own allocator.
class Temporary {
 public:
  Temporary() = default;
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    if (data_ != nullptr) allocator_->Free(allocator_, data_);
  }
  void* data() const { return data_; }

 private:
  friend class KernelContext;
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

class KernelContext {
 public:
  explicit KernelContext(OrtKernelContext* context) : context_(context) {}

  /// Views input `index`; a skipped or absent optional input gives an absent view.
  Status Input(size_t index, TensorView* view) const;

  /// Allocates output `index` with these dimensions; `*data` is nullptr when nobody asked for the output.
  Status Output(size_t index, const int64_t* dims, size_t rank, void** data) const;

  /// Allocates memory of the CPU that `memory` gives back at its end.
  Status Allocate(size_t bytes, Temporary* memory) const;

  /// Likewise on a CUDA device, for kernels that this run puts on its stream: later ones may get the same memory.
  Status AllocateOnCuda(int device, size_t bytes, Temporary* memory) const;

  /// The provider's CUDA stream, for kernels of a CUDA overload.
  Status CudaStream(void** stream) const;

  /// Whether the node has an output `index` that somebody asked for is only known by Output; this counts declared ones.
  size_t OutputCount() const;

  /// Runs fn(0) … fn(tasks - 1) on the session's threads and returns when all are done. One task runs in place.
  /// `fn` must not throw.
  template <class Fn>
  Status ParallelFor(size_t tasks, const Fn& fn) const {
    if (tasks == 1) fn(size_t{0});
    if (tasks <= 1) return Status::Ok();
    const auto call = [](void* state, size_t task) { (*static_cast<const Fn*>(state))(task); };
    return FromOrt(Ort().KernelContext_ParallelFor(context_, call, tasks, 0, const_cast<Fn*>(&fn)));
  }

 private:
  /// Takes `info` over.
  Status Allocate(OrtMemoryInfo* info, size_t bytes, Temporary* memory) const;

  OrtKernelContext* context_;
};

}  // namespace lowbit
