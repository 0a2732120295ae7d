// QuantGemm on a GPU, for the operator's ONNX Runtime side. Present in libraries built with LOWBIT_CUDA.
#pragma once

#include <string>
#include <vector>

#include "native/core/cuda_choice.h"
#include "native/core/tensor_view.h"
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit {

/// All CUDA kernels of QuantGemm. Without a device none is available.
std::vector<CudaKernelRow> QuantGemmCudaKernels();

/// Enqueues the product on `stream` and returns.
Status RunGemmOnCuda(const std::string& where, const cuda::GemmArgs& args, void* stream);

}  // namespace lowbit
