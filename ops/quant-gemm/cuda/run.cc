#include "ops/quant-gemm/cuda/run.h"

#include "native/core/cuda_status.h"
#include "native/core/kernel_choice.h"

namespace lowbit {
namespace {

// Compute capability x 10 of the current device.
cudaError_t Architecture(int* arch) {
  int device = 0, major = 0, minor = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *arch = major * 10 + minor;
  return e;
}

// The CUDA kernel that the user forces, or null. Asking takes a lock, so the answer is kept until the next change.
const char* ForcedCudaKernel() {
  thread_local uint32_t known = 0;
  thread_local const char* forced = nullptr;
  if (const uint32_t now = ForceGeneration(); known != now) {
    std::vector<KernelRow> rows;
    for (int i = 0; i < cuda::kGemmKernelCount; ++i) rows.push_back({cuda::kGemmKernels[i].name, 0});
    const std::string name = ForcedKernel("QuantGemm", rows);
    forced = nullptr;
    for (const KernelRow& row : rows) {
      if (name == row.name) forced = row.name;
    }
    known = now;
  }
  return forced;
}

}  // namespace

std::vector<CudaKernelRow> QuantGemmCudaKernels() {
  int arch = 0;
  const bool device = Architecture(&arch) == cudaSuccess;
  std::vector<CudaKernelRow> rows;
  for (int i = 0; i < cuda::kGemmKernelCount; ++i) {
    const cuda::GemmKernel& kernel = cuda::kGemmKernels[i];
    rows.push_back({kernel.name, device && cuda::Runs(kernel, arch)});
  }
  return rows;
}

Status RunGemmOnCuda(const std::string& where, const cuda::GemmArgs& args, void* stream) {
  int arch = 0;
  LOWBIT_TRY(FromCuda(Architecture(&arch), where));
  const cuda::GemmKernel* kernel = cuda::ChooseGemmKernel(args, arch, ForcedCudaKernel());
  return FromCuda(kernel->run(args, static_cast<cudaStream_t>(stream)), where, " (kernel ", kernel->name,
                  ", M=", args.m, ", N=", args.n, ", K=", args.k, ")");
}

}  // namespace lowbit
