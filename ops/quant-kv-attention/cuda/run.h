// QuantKvAttention on a GPU, for the operator's ONNX Runtime side. Present in libraries built with LOWBIT_CUDA.
#pragma once

#include <string>
#include <vector>

#include "native/core/cuda_choice.h"
#include "native/core/kernel_context.h"
#include "ops/quant-kv-attention/cpu/attention.h"

namespace lowbit {

/// All CUDA attention kernels. Without a device none is available.
std::vector<CudaKernelRow> QuantKvAttentionCudaKernels();

/// Enqueues on `stream` and returns. `type`: the graph's floats. Pointers in `args` are on the device, its `lengths` is
/// not looked at: `lengths`, [batch] on the device or null, takes its place. A length beyond `limit` gives NaN.
Status RunAttentionOnCuda(const std::string& where, const KernelContext& context, const kv::Args& args,
                          ElementType type, int64_t batch, const int32_t* lengths, int64_t limit, void* stream);

}  // namespace lowbit
