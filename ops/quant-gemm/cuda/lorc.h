// The low-rank term of QuantGemm on the device: y = residual + (a · downᵀ) · upᵀ, see ops/formats/README.md. The main
// product then takes y for its residual: every kernel reads an element of it before it writes it, in the same thread.
#pragma once
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {

// Factors of rank `rank` in `planes` codes a value, first + second / 256. All pointers are on the device.
struct LorcArgs {
  int rank = 0;
  int planes = 1;                        // 1 or 2
  const int8_t* down = nullptr;          // [planes · rank, K]: first codes of every row, then second ones
  const uint16_t* down_scale = nullptr;  // float16 [rank]
  const int8_t* up = nullptr;            // [N, planes · rank]: likewise in every row
  const uint16_t* up_scale = nullptr;    // float16 [N]
  float* inner = nullptr;                // [M, planes · rank], scratch

  constexpr int codes() const { return planes * rank; }
};

constexpr int kMaxLorcCodes = 512;

// Bytes of LorcArgs::inner.
constexpr size_t LorcScratchBytes(const GemmArgs& args, const LorcArgs& lorc) {
  return static_cast<size_t>(args.m) * static_cast<size_t>(lorc.codes()) * sizeof(float);
}

// Asynchronous on `stream`; neither allocates nor synchronizes, and gives the same bits at every call. Of `args`, those
// of activations, residual and y are read.
cudaError_t LaunchLorc(const GemmArgs& args, const LorcArgs& lorc, cudaStream_t stream);

}  // namespace lowbit::cuda
