#include "ops/quant-gemm/cuda/run.h"

#include "native/core/cuda_memory.h"

namespace lowbit {
namespace {

std::vector<KernelRow> Names() {
  std::vector<KernelRow> rows;
  for (int i = 0; i < cuda::kGemmKernelCount; ++i) rows.push_back({cuda::kGemmKernels[i].name, 0});
  return rows;
}

// y = residual + the low-rank term.
Status RunLorcOnCuda(const std::string& where, const cuda::GemmArgs& args, cuda::LorcArgs lorc, cudaStream_t stream,
                     const KernelContext& context) {
  Temporary inner;
  LOWBIT_TRY(AllocateOnCuda(where, context, cuda::LorcScratchBytes(args, lorc), &inner));
  lorc.inner = static_cast<float*>(inner.data());
  return FromCuda(cuda::LaunchLorc(args, lorc, stream), where, " (low-rank term, M=", args.m, ", N=", args.n,
                  ", K=", args.k, ", rank=", lorc.rank, ")");
}

// Float activations become codes; what their outlier columns add is in y then, and with it the residual. The codes are
// in `scratch`.
Status SplitColumnsOnCuda(const std::string& where, float threshold, cudaStream_t stream, const KernelContext& context,
                          Temporary* scratch, cuda::GemmArgs* args) {
  LOWBIT_TRY(AllocateOnCuda(where, context, cuda::SplitLayout(args->m, args->k).bytes, scratch));
  return FromCuda(cuda::LaunchSplitColumns(args, threshold, scratch->data(), stream), where,
                  " (outlier columns, M=", args->m, ", N=", args->n, ", K=", args->k, ")");
}

// s4 codes become s4_e4m3 in `scratch` where that is faster.
Status SignMagnitudeOnCuda(const std::string& where, int arch, cudaStream_t stream, const KernelContext& context,
                           Temporary* scratch, cuda::GemmArgs* args) {
  const size_t bytes = cuda::SignMagnitudeBytes(*args, arch);
  if (bytes == 0) return {};
  LOWBIT_TRY(AllocateOnCuda(where, context, bytes, scratch));
  return FromCuda(cuda::LaunchSignMagnitude(args, scratch->data(), stream), where,
                  " (codes for FP8 tensor cores, M=", args->m, ", K=", args->k, ")");
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

cuda::Format CudaFormat(const std::string& name) {
  using cuda::Format;
  static constexpr struct {
    const char* name;
    Format format;
  } kFormats[] = {{"s4", Format::kS4},     {"s8", Format::kS8},     {"s4_e4m3", Format::kS4E4M3},
                  {"e2m1", Format::kE2M1}, {"e3m0", Format::kE3M0}, {"bnb_fp4", Format::kBnbFp4},
                  {"e4m3", Format::kE4M3}, {"e5m2", Format::kE5M2}};
  for (const auto& entry : kFormats) {
    if (name == entry.name) return entry.format;
  }
  return Format::kNone;
}

Status RunGemmOnCuda(const std::string& where, const cuda::GemmArgs& product, const cuda::LorcArgs* lorc,
                     const float* threshold, const KernelContext& context) {
  void* stream = nullptr;
  LOWBIT_TRY(context.CudaStream(&stream));
  cuda::GemmArgs args = product;
  Temporary codes;
  if (threshold != nullptr) {
    LOWBIT_TRY(SplitColumnsOnCuda(where, *threshold, static_cast<cudaStream_t>(stream), context, &codes, &args));
  }
  if (lorc != nullptr) {
    LOWBIT_TRY(RunLorcOnCuda(where, args, *lorc, static_cast<cudaStream_t>(stream), context));
    args.residual = args.y;
  }
  int arch = 0;
  LOWBIT_TRY(FromCuda(CudaArchitecture(&arch), where));
  const char* const forced = ForcedCudaKernel<cuda::GemmKernel>("QuantGemm", Names);
  if (forced == nullptr) {
    LOWBIT_TRY(SignMagnitudeOnCuda(where, arch, static_cast<cudaStream_t>(stream), context, &codes, &args));
  }
  const cuda::GemmKernel* kernel = cuda::ChooseGemmKernel(args, arch, forced);
  return FromCuda(kernel->run(args, static_cast<cudaStream_t>(stream)), where, " (kernel ", kernel->name,
                  ", M=", args.m, ", N=", args.n, ", K=", args.k, ")");
}

}  // namespace lowbit
