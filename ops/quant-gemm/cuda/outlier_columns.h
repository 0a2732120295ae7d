// LLM.int8() on the device: float activations become s8 codes without their outlier columns, and what those columns add
// goes into y, which the product of the codes then takes for its residual (every kernel reads an element of it before
// it writes it, in the same thread). ops/formats/README.md has the arithmetic, "Float columns".
#pragma once
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {

// Where the parts lie in scratch memory.
struct SplitLayout {
  size_t scale, index, found, bytes;  // codes come first

  constexpr SplitLayout(int64_t m, int k) : scale(Round(static_cast<size_t>(m) * k)), index(), found(), bytes() {
    index = scale + Round(static_cast<size_t>(m) * sizeof(float));
    found = index + Round((static_cast<size_t>(k) + 1) * sizeof(int32_t));
    bytes = found + Round(static_cast<size_t>(k));
  }
  static constexpr size_t Round(size_t size) { return (size + 255) / 256 * 256; }
};

// Splits args->a (floats of args->type; weights are s8 without groups and outliers) and replaces it by its codes in
// `scratch`, SplitLayout(m, k).bytes on the device. Asynchronous on `stream`, neither allocates nor synchronizes, and
// gives the same bits at every call. threshold 0: there are no outlier columns.
cudaError_t LaunchSplitColumns(GemmArgs* args, float threshold, void* scratch, cudaStream_t stream);

}  // namespace lowbit::cuda
