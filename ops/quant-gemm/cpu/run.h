// Runs a kernel over a whole product: cuts it into blocks, packs activations once per block, spreads tasks over the
// session's threads.
#pragma once

#include "native/core/kernel_context.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {

/// Computes all `rows` rows of y.
Status RunGemm(const GemmKernel& kernel, const Args& args, int64_t rows, const KernelContext& context);

}  // namespace lowbit::gemm
