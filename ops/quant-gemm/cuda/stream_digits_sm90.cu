// The streaming kernels that multiply the digits of 16-bit floats.
#include "ops/quant-gemm/cuda/stream_digits_sm90.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kFewestSlots = 4, kMultiprocessors = 132;

// With long rows a block's digits leave too few slots unless more blocks share them.
stream::StreamPlan PlanOf(const GemmArgs& args) {
  stream::StreamPlan plan = stream::MakePlan(args, true, 1, 0, kMultiprocessors);
  for (const int more : {2, 4, 8}) {
    if (stream::DigitLayoutOf(plan).slots >= std::min(kFewestSlots, plan.max_steps)) break;
    if (more > plan.split) plan = stream::MakePlan(args, true, 1, more, kMultiprocessors);
  }
  return plan;
}

}  // namespace

bool AcceptsStreamDigits(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && WholeSteps(args) &&
         args.weight_format == Format::kS4 && args.m <= kMostDigitTokens && stream::Takes(args, 2) &&
         stream::DigitLayoutOf(PlanOf(args)).slots > 0;
}

cudaError_t LaunchStreamDigits(const GemmArgs& args, cudaStream_t stream) {
  const stream::StreamPlan plan = PlanOf(args);
  stream::StreamMaps maps;
  const cudaError_t e = stream::MakeMaps(args, true, 2, 1, &maps);
  if (e != cudaSuccess) return e;
  auto* kernel = args.type == DType::kF16 ? stream::DigitKernel<__half> : stream::DigitKernel<__nv_bfloat16>;
  return stream::LaunchStreaming(kernel, plan, maps, kMostDigitTokens, stream::kStreamThreads,
                                 stream::DigitLayoutOf(plan).bytes, stream);
}

}  // namespace lowbit::cuda
