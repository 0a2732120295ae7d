// What a CUDA call's result means to the user: driver, architecture and arguments are told apart.
#pragma once

#include <cuda_runtime_api.h>

#include "native/core/status.h"

namespace lowbit {

/// Turns the result of a launch into a Status; `parts` say which kernel and shape, for the message.
template <class... Parts>
Status FromCuda(cudaError_t error, const Parts&... parts) {
  if (error == cudaSuccess) return Status::Ok();
  const char* advice = "";
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
      advice = " The library holds no code for this GPU's architecture; build it with -DLOWBIT_CUDA_ARCHS.";
      break;
    case cudaErrorInsufficientDriver:
    case cudaErrorNotSupported:
      advice = " The GPU driver is older than CUDA 13; update it.";
      break;
    default:
      break;
  }
  return Status::Error(ORT_FAIL, parts..., ": CUDA failed with ", cudaGetErrorName(error), " (",
                       cudaGetErrorString(error), "), expected success.", advice);
}

}  // namespace lowbit
