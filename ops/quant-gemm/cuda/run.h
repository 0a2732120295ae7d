// QuantGemm on a GPU, for the operator's ONNX Runtime side. Present in libraries built with LOWBIT_CUDA.
#pragma once

#include <string>
#include <vector>

#include "native/core/cuda_choice.h"
#include "native/core/kernel_context.h"
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/lorc.h"
#include "ops/quant-gemm/cuda/outlier_columns.h"
#include "ops/quant-gemm/cuda/sign_magnitude.h"

namespace lowbit {

/// All CUDA kernels of QuantGemm. Without a device none is available.
std::vector<CudaKernelRow> QuantGemmCudaKernels();

/// The format of a name that an attribute may have.
cuda::Format CudaFormat(const std::string& name);

/// Enqueues the product on the context's stream and returns. `lorc` is its low-rank term, without scratch, or null.
/// With a threshold (or 0) `args.a` holds floats, quantized first without their outlier columns; null: it holds codes.
Status RunGemmOnCuda(const std::string& where, const cuda::GemmArgs& args, const cuda::LorcArgs* lorc,
                     const float* threshold, const KernelContext& context);

}  // namespace lowbit
