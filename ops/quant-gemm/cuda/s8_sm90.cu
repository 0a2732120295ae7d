// QuantGemm with 8-bit weights per channel and 8-bit activations per token on Hopper's int8 tensor cores, in the frame
// of wide_sm90.cuh: a plain integer product, scaled once at the end.
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/wide_launch.cuh"

namespace lowbit::cuda {
namespace wide {
namespace {

// What becomes of sums: element 4b + i of v is channel 8 * (i / 2) from `row`, token 8 * (j + b) + 2q + i % 2.
class RowScales {
 public:
  __device__ __forceinline__ RowScales(const GemmArgs& args, int row, int64_t token)
      : tokens_(args.a_scale + token + threadIdx.x % 4 * 2),
        left_(static_cast<int>(min(args.m - token, int64_t{256})) - static_cast<int>(threadIdx.x % 4 * 2)) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
      channels_[h] = Widen(__ushort_as_half(__ldg(args.b_scale + min(row + 8 * h, args.n - 1))));
  }
  __device__ __forceinline__ void Apply(int j, const int (&sum)[8], float (&v)[8]) const {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int at = 8 * (j + b);
      const float tokens[2] = {at < left_ ? tokens_[at] : 0.0f, at + 1 < left_ ? tokens_[at + 1] : 0.0f};
#pragma unroll
      for (int i = 0; i < 4; ++i) v[4 * b + i] = static_cast<float>(sum[4 * b + i]) * tokens[i % 2] * channels_[i / 2];
    }
  }

 private:
  const float* tokens_;
  int left_;  // tokens from the thread's first
  float channels_[2];
};

template <class T>
struct CodeMath {
  using Type = T;
  using Sum = int;
  using Scales = RowScales;
  static constexpr int kStepChannels = 128, kTokenElement = 1, kWeightRow = 128;
  static constexpr uint32_t kMask = 0, kFlip = 0;  // nothing is unpacked

  template <class C, int kSums>
  static __device__ __forceinline__ void Body(C& c, const Work& work, int (&sum)[kSums]) {
    for (int step = work.first; step < work.last; ++step) {
      c.WaitFull();
      const uint64_t weights = c.Weights(), tokens = c.Tokens();
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < 4; ++i) WgmmaS8(sum, weights + 2 * i, tokens + 2 * i, 1);
      WgmmaCommit();
      WgmmaWait<1>();
      if (step > work.first) c.Release(c.Before(c.stage()));
      c.Advance();
    }
    WgmmaWait<0>();
    SumsAreReady(sum);
    if (work.first < work.last) c.Release(c.Before(c.stage()));
  }
};

template <class T>
cudaError_t LaunchTyped(const GemmArgs& args, WideShape shape, cudaStream_t stream) {
  if (shape.tokens == 64) return Launch<CodeMath<T>, 64>(args, shape.split, stream);
  if (shape.tokens == 128) return Launch<CodeMath<T>, 128>(args, shape.split, stream);
  if (shape.tokens == 176) return Launch<CodeMath<T>, 176>(args, shape.split, stream);
  return Launch<CodeMath<T>, 256>(args, shape.split, stream);
}

}  // namespace
}  // namespace wide

bool AcceptsS8Sm90(const GemmArgs& args) {
  const bool codes = args.a_format == Format::kS4 || args.a_format == Format::kS8;
  return args.weight_format == Format::kS8 && codes && args.outliers == 0 && args.segments() == 1 && args.n % 8 == 0 &&
         args.k <= 131072 && args.m <= (1LL << 30) && CopyEngineTakes(args.a, args.k) &&
         CopyEngineTakes(args.b, args.k) && CopyEngineTakes(args.y, 2ull * args.n) &&
         CopyEngineTakes(args.residual, 2ull * args.n);
}

cudaError_t LaunchS8Sm90With(const GemmArgs& args, WideShape shape, cudaStream_t stream) {
  switch (args.type) {
    case DType::kF32:
      return wide::LaunchTyped<float>(args, shape, stream);
    case DType::kF16:
      return wide::LaunchTyped<__half>(args, shape, stream);
    default:
      return wide::LaunchTyped<__nv_bfloat16>(args, shape, stream);
  }
}

cudaError_t LaunchS8Sm90(const GemmArgs& args, cudaStream_t stream) {
  return LaunchS8Sm90With(args, ChooseWideShape(args), stream);
}

}  // namespace lowbit::cuda
