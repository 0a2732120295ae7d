// The low-rank term of QuantGemm (LoRC, ZeroQuant-V2): y += (â · downᵀ) · upᵀ, with â the dequantized activations.
// Both factors are s8 weights with a scale a row, so the first product is one that the kernels know. The second is
// long and thin and has a kernel of its own.
#pragma once

#include "native/core/kernel_context.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {

constexpr int64_t kMaxLorcRank = 256;

/// Factors of rank `rank`, in `planes` codes a value: first + second / 256.
struct Lorc {
  int64_t rank;
  int64_t planes;              // 1 or 2
  const int8_t* down;          // [planes * rank, K]: first codes of every row, then second ones
  const uint16_t* down_scale;  // float16 [rank]
  const int8_t* up;            // [n, planes * rank]: likewise in every row
  const uint16_t* up_scale;    // float16 [n]

  int64_t codes() const { return planes * rank; }
};

/// What the first product, of activations with `down`, looks like to kernels.
Shape DownShape(const Lorc& lorc, const Args& args, int64_t rows);
/// Writes the term plus args.residual to args.y, which the main product then takes for its residual. `down` is a kernel
/// for DownShape, the activations' codes and s8 weights; the second product takes the same instruction set.
Status RunLorc(const Lorc& lorc, const GemmKernel& down, const Args& args, int64_t rows, const KernelContext& context);

}  // namespace lowbit::gemm
