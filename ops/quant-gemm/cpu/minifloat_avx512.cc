// QuantGemm of minifloat codes with AVX-512: decoded to floats, 12 rows x 32 columns of fused multiply-adds.
#include "ops/quant-gemm/cpu/minifloat_avx512.h"

#include "native/core/cpu_features.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

struct Isa : MinifloatAvx512 {
  static constexpr int kCodes = 1;
  static constexpr uint32_t kNeeds = kCpuAvx512;

  static float Join(float value, float) { return value; }
  static F MulAddUnits(F a, F b, F c) { return MulAdd(a, b, c); }
};

#define LOWBIT_TILE "12x32__avx512"
#include "ops/quant-gemm/cpu/lorc_up.inl"
#include "ops/quant-gemm/cpu/minifloat.inl"

}  // namespace

Table MinifloatAvx512Kernels() { return IsaKernels(); }
LorcUpKernel LorcUpAvx512() { return kLorcUpKernel; }

}  // namespace lowbit::gemm
