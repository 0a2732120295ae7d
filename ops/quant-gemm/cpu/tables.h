// QuantGemm's kernels by instruction set, and all of them together.
#pragma once

#include <cstddef>
#include <span>

#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {

/// Every compiled kernel, fastest first, portable ones last.
std::span<const GemmKernel> Kernels();

}  // namespace lowbit::gemm
