#include "ops/quant-gemm/cuda/run.h"

#include "native/core/cuda_status.h"

namespace lowbit {
namespace {

std::vector<KernelRow> Names() {
  std::vector<KernelRow> rows;
  for (int i = 0; i < cuda::kGemmKernelCount; ++i) rows.push_back({cuda::kGemmKernels[i].name, 0});
  return rows;
}

}  // namespace

std::vector<CudaKernelRow> QuantGemmCudaKernels() {
  int arch = 0;
  const bool device = CudaArchitecture(&arch) == cudaSuccess;
  std::vector<CudaKernelRow> rows;
  for (int i = 0; i < cuda::kGemmKernelCount; ++i) {
    const cuda::GemmKernel& kernel = cuda::kGemmKernels[i];
    rows.push_back({kernel.name, device && cuda::Runs(kernel, arch)});
  }
  return rows;
}

Status RunGemmOnCuda(const std::string& where, const cuda::GemmArgs& args, void* stream) {
  int arch = 0;
  LOWBIT_TRY(FromCuda(CudaArchitecture(&arch), where));
  const cuda::GemmKernel* kernel =
      cuda::ChooseGemmKernel(args, arch, ForcedCudaKernel<cuda::GemmKernel>("QuantGemm", Names));
  return FromCuda(kernel->run(args, static_cast<cudaStream_t>(stream)), where, " (kernel ", kernel->name,
                  ", M=", args.m, ", N=", args.n, ", K=", args.k, ")");
}

}  // namespace lowbit
