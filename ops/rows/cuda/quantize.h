// Quantize, ActQuantize and GatedActQuantize on the device: one kernel, an element-wise function in front.
#pragma once
#include <cuda_runtime_api.h>

#include "ops/common/cuda/types.h"

namespace lowbit::cuda {

// value(row, k) = activation(x[row * x_stride + k]) * up[row * up_stride + k], the factor left out when `up` is null.
struct QuantizeArgs {
  DType type = DType::kF32;
  const void* x = nullptr;
  const void* up = nullptr;
  int64_t x_stride = 0;   // elements from one row to the next
  int64_t up_stride = 0;  // ditto
  Activation activation = Activation::kNone;
  const int32_t* reorder_index = nullptr;  // never written: may be read before the stream is reached
  int8_t* q = nullptr;                     // [M, K]
  float* scale = nullptr;                  // [M, S]
  int64_t rows = 0;                        // M
  RowFormat format;
};

// Asynchronous on `stream`; cudaErrorInvalidValue when K > kMaxRowChannels.
cudaError_t LaunchQuantize(const QuantizeArgs& args, cudaStream_t stream);

}  // namespace lowbit::cuda
