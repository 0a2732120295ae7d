// The graph's float type as CUDA kernels name it.
#pragma once

#include "native/core/ort_api.h"
#include "ops/common/cuda/types.h"

namespace lowbit::cuda {

constexpr DType GraphType(ONNXTensorElementDataType type) {
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16    ? DType::kF16
         : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 ? DType::kBF16
                                                          : DType::kF32;
}

}  // namespace lowbit::cuda
