// NormQuantize on the device.
#pragma once
#include <cuda_runtime_api.h>

#include "ops/common/cuda/types.h"

namespace lowbit::cuda {

// All of x, weight, bias, residual, sum and y are in `type`; null where absent.
struct NormQuantizeArgs {
  DType type = DType::kF32;
  const void* x = nullptr;         // [M, K]
  const void* weight = nullptr;    // [K]
  const void* bias = nullptr;      // [K]
  const void* residual = nullptr;  // [M, K]
  bool constant_weights = false;   // weight and bias are never written: may be read before the stream is reached
  const int32_t* reorder_index = nullptr;  // never written either
  int8_t* q = nullptr;                     // [M, K]
  float* scale = nullptr;                  // [M, S]
  void* sum = nullptr;                     // [M, K]
  void* y = nullptr;                       // [M, K]
  int64_t rows = 0;                        // M
  RowFormat format;
  bool layer_norm = false;  // otherwise RMSNorm
  float epsilon = 1e-5f;
};

// Asynchronous on `stream`; cudaErrorInvalidValue when K > kMaxRowChannels.
cudaError_t LaunchNormQuantize(const NormQuantizeArgs& args, cudaStream_t stream);

}  // namespace lowbit::cuda
