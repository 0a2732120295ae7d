#include "ops/quant-gemm/cpu/tables.h"

#include <vector>

namespace lowbit::gemm {

std::span<const GemmKernel> Kernels() {
  static const std::vector<GemmKernel> kernels = [] {
    std::vector<GemmKernel> all;
    for (const Table& table : {FloatRowAvx512Kernels(), Avx512VnniKernels(), MinifloatAvx512Bf16Kernels(),
                               MinifloatAvx512Kernels(), Avx2Kernels(), MinifloatAvx2Kernels(), ScalarKernels()})
      all.insert(all.end(), table.rows, table.rows + table.count);
    return all;
  }();
  return kernels;
}

}  // namespace lowbit::gemm
