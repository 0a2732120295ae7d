// The resident kernels for 4-bit minifloat weights and 8-bit float activations.
#include "ops/quant-gemm/cuda/minifloat_math.cuh"
#include "ops/quant-gemm/cuda/resident_launch.cuh"

namespace lowbit::cuda {
namespace {

template <bool kE5M2>
cudaError_t Launch(const GemmArgs& args, cudaStream_t stream) {
  return args.weight_format == Format::kE2M1
             ? resident::LaunchBy<MinifloatMath<Format::kE2M1, kE5M2>, false>(args, stream)
             : resident::LaunchBy<MinifloatMath<Format::kE3M0, kE5M2>, false>(args, stream);
}

}  // namespace

bool AcceptsResidentMinifloat(const GemmArgs& args) {
  const bool formats = (args.weight_format == Format::kE2M1 || args.weight_format == Format::kE3M0) &&
                       (args.a_format == Format::kE4M3 || args.a_format == Format::kE5M2);
  return formats && WholeSteps(args) && resident::Takes(args, 1);
}
// The batch kernel spends fewer instructions on a weight, so only where a warp has few steps.
bool PrefersResidentMinifloat(const GemmArgs& args) {
  return args.m <= 4 && args.k <= 4096 && args.n <= 32 * resident::kMultiprocessors && AcceptsResidentMinifloat(args) &&
         resident::Prefers(args, 1);
}

cudaError_t LaunchResidentMinifloat(const GemmArgs& args, cudaStream_t stream) {
  return args.a_format == Format::kE5M2 ? Launch<true>(args, stream) : Launch<false>(args, stream);
}

}  // namespace lowbit::cuda
