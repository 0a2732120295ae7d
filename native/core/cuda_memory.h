// Device memory for one run of an operator.
#pragma once

#include <string>

#include "native/core/cuda_status.h"
#include "native/core/kernel_context.h"

namespace lowbit {

/// Memory of the current device, from the session's allocator.
inline Status AllocateOnCuda(const std::string& where, const KernelContext& context, size_t bytes, Temporary* memory) {
  int device = 0;
  LOWBIT_TRY(FromCuda(cudaGetDevice(&device), where));
  return context.AllocateOnCuda(device, bytes, memory);
}

}  // namespace lowbit
