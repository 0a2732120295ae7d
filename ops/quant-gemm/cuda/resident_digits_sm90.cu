// The resident kernel for one or two tokens of 16-bit floats and 4-bit weights: resident_sm90.cuh with int8 products of
// the activations' digits (float_digits.cuh). A warp makes the digits of its own input channels, a pair of steps or of
// tokens at a time.
#include "ops/quant-gemm/cuda/float_digits.cuh"
#include "ops/quant-gemm/cuda/resident_launch.cuh"

namespace lowbit::cuda {
namespace resident {
namespace {

// Shared memory of a block: boxes of weights, [warp] digits of a pair [step][column][128], later sums [column][row],
// [row][group] weight scales, a barrier for them and one a warp for its weights.
struct DigitLayout {
  int digits, digits_of_warp, scales, barriers, bytes;
};
__host__ __device__ inline DigitLayout DigitLayoutOf(const ResidentPlan& plan, int rows) {
  const int sums = kDigits * static_cast<int>(plan.args.m) * (rows + kSumPadding) * 4;
  DigitLayout at{};
  at.digits = plan.body_steps * rows * kBoxBytes;
  at.digits_of_warp = sums > 2 * kDigits * kStepChannels ? (sums + 15) / 16 * 16 : 2 * kDigits * kStepChannels;
  at.scales = at.digits + kWarps * at.digits_of_warp;
  at.barriers = at.scales + (rows * plan.b_scales * 2 + 15) / 16 * 16;
  at.bytes = at.barriers + (kWarps + 1) * 8;
  return at;
}

// One step: the block's weight rows at `boxes` times the digits of `column`, which this thread holds for mma.sync;
// column_scale: of columns 2q and 2q + 1.
template <int kRowTiles>
__device__ __forceinline__ void MultiplyDigits(const uint8_t* boxes, const uint8_t* digits, int column,
                                               float2 column_scale, const uint16_t* scale, int scale_stride,
                                               float (&sum)[kRowTiles][4]) {
  const int r = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  uint4 raw[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    raw[h] = *reinterpret_cast<const uint4*>(digits + column * kStepChannels + ((2 * q + h) ^ column) * 16);
  }
  const uint32_t b[1][8] = {{raw[0].x, raw[0].y, raw[0].z, raw[0].w, raw[1].x, raw[1].y, raw[1].z, raw[1].w}};
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    uint4 w[2][1];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      w[h][0] = *reinterpret_cast<const uint4*>(boxes + (16 * i + 8 * h + r) * kBoxBytes + (q ^ ((r >> 1) & 3)) * 16);
    }
    int acc[1][4];
    Start(acc, kStartOfStep<int>);
    CodeMath<true>::Multiply<1>(w, b, acc);
    const float scale0 = HalfBits(scale[(16 * i + r) * scale_stride]);
    const float scale1 = HalfBits(scale[(16 * i + 8 + r) * scale_stride]);
    sum[i][0] = fmaf(SumOf<true>(acc[0][0]), scale0 * column_scale.x, sum[i][0]);
    sum[i][1] = fmaf(SumOf<true>(acc[0][1]), scale0 * column_scale.y, sum[i][1]);
    sum[i][2] = fmaf(SumOf<true>(acc[0][2]), scale1 * column_scale.x, sum[i][2]);
    sum[i][3] = fmaf(SumOf<true>(acc[0][3]), scale1 * column_scale.y, sum[i][3]);
  }
}

template <class T, int kTokens, int kRowTiles>
__global__ __launch_bounds__(kThreads, 3) void ResidentDigitKernel(const __grid_constant__ ResidentPlan plan,
                                                                   const __grid_constant__ CUtensorMap weights) {
  constexpr int kRows = 16 * kRowTiles, kStride = kRows + kSumPadding, kColumns = kDigits * kTokens;
  constexpr int kPairSteps = 2 / kTokens;  // of the two halves of a warp: two steps, or two tokens of one
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4, half = lane / 16, run = lane % 16;
  const int n0 = blockIdx.x * kRows, begin = plan.begin[warp], end = plan.begin[warp + 1];
  const DigitLayout layout = DigitLayoutOf(plan, kRows);

  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* const digits = shared + layout.digits + warp * layout.digits_of_warp;
  uint16_t* const scales = reinterpret_cast<uint16_t*>(shared + layout.scales);
  uint64_t* const scales_there = reinterpret_cast<uint64_t*>(shared + layout.barriers);
  uint64_t* const weights_there = scales_there + 1 + warp;

  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  if (lane == 0 && begin < end) {
    BarrierInit(weights_there, 1);
    BarrierInitFence();
    AskForWeights<kRows, 1>(plan, &weights, nullptr, ResidentLayout{}, shared, weights_there, begin, end, n0);
  }
  AskForScales<kRows>(plan, scales_there, 1, scales, nullptr, n0);
  __syncthreads();
  if (args.constant_weights) WaitForPriorKernelsIfAny();
  LetNextKernelStartIfAny();  // not before: resident_sm90.cuh

  const T* const channels = static_cast<const T*>(args.a) + (kTokens == 1 ? 0 : half) * static_cast<int64_t>(args.k);
  const auto load = [&](int step) {
    const int mine = min(step + (kTokens == 1 ? half : 0), plan.body_steps - 1);  // behind the end: of no use
    return __ldcg(reinterpret_cast<const uint4*>(channels + mine * kStepChannels) + run);
  };
  uint4 now = load(begin), next = load(begin + kPairSteps);
  const int column = min(r, kColumns - 1);  // threads of columns that nobody needs read the last one's
  float place[2];
  bool second[2];  // token of columns 2q and 2q + 1
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int c = min(2 * q + i, kColumns - 1);
    place[i] = PlaceOf(c % kDigits), second[i] = c >= kDigits;
  }
  float sum[kRowTiles][4] = {};
  if (begin < end) BarrierWait(weights_there, 0);
  BarrierWait(scales_there, 0);
  for (int step = begin; step < end; step += kPairSteps) {
    uint2 words[kDigits];
    const float scale = ToDigits<T>(now, words);
    now = next, next = load(step + 2 * kPairSteps);
    __syncwarp();
#pragma unroll
    for (int d = 0; d < kDigits; ++d) {
      const int c = kTokens == 1 ? d : half * kDigits + d;
      uint8_t* const row = digits + (kTokens == 1 ? half * kColumns * kStepChannels : 0) + c * kStepChannels;
      *reinterpret_cast<uint2*>(row + ((run / 2) ^ c) * 16 + run % 2 * 8) = words[d];
    }
    const float scales_of[2] = {__shfl_sync(~0u, scale, 0), __shfl_sync(~0u, scale, 16)};  // of the halves
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kPairSteps; ++i) {
      if (i > 0 && step + i >= end) break;
      const auto column_scale = [&](int j) {
        return place[j] * (kTokens == 1 ? scales_of[i] : second[j] ? scales_of[1] : scales_of[0]);
      };
      const int group = args.group_size ? (step + i) >> plan.unit_shift : 0;
      MultiplyDigits<kRowTiles>(shared + (step + i) * kRows * kBoxBytes, digits + i * kColumns * kStepChannels, column,
                                make_float2(column_scale(0), column_scale(1)), scales + group, plan.b_scales, sum);
    }
  }

  __syncwarp();
  float* const mine = reinterpret_cast<float*>(digits) + 2 * q * kStride + r;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (2 * q + j % 2 < kColumns) mine[j % 2 * kStride + 16 * i + 8 * (j / 2)] = sum[i][j];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTokens * kRows; i += kThreads) {
    const int token = i / kRows, row = i % kRows, n = n0 + row;
    if (n >= args.n) continue;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* const sums = reinterpret_cast<const float*>(shared + layout.digits + w * layout.digits_of_warp);
#pragma unroll
      for (int d = 0; d < kDigits; ++d) total += sums[(kDigits * token + d) * kStride + row];
    }
    const int64_t index = static_cast<int64_t>(token) * args.n + n;
    float y = total * CodeMath<true>::kFactor;
    if (args.bias) y += LoadOne(args.type, args.bias, n);
    if (args.residual) y += LoadOne(args.type, args.residual, index);
    StoreOne(args.type, args.y, index, y);
  }
}

template <class T, int kTokens, int kRowTiles>
cudaError_t LaunchDigits(const GemmArgs& args, cudaStream_t stream) {
  constexpr int kRows = 16 * kRowTiles;
  auto* kernel = ResidentDigitKernel<T, kTokens, kRowTiles>;
  const ResidentPlan plan = MakePlan(args, 2);
  const int shared_bytes = DigitLayoutOf(plan, kRows).bytes;
  // Room for more blocks, of this kernel or the next.
  cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  CUtensorMap weights{};
  const auto row_bytes = static_cast<uint64_t>(args.k) / 2;
  if (e == cudaSuccess) {
    e = MakeTensorMap({args.b, static_cast<uint64_t>(args.n), row_bytes, row_bytes, kRows, kBoxBytes}, &weights);
  }
  if (e != cudaSuccess) return e;
  const int blocks = (args.n + kRows - 1) / kRows;
  return LaunchClusters(kernel, {blocks, 1, kThreads, static_cast<size_t>(shared_bytes)}, stream, plan, weights);
}

template <class T, int kTokens>
cudaError_t LaunchTokens(const GemmArgs& args, bool wide, cudaStream_t stream) {
  return wide ? LaunchDigits<T, kTokens, 2>(args, stream) : LaunchDigits<T, kTokens, 1>(args, stream);
}

}  // namespace
}  // namespace resident

bool AcceptsResidentDigits(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && WholeSteps(args) &&
         args.weight_format == Format::kS4 && args.m <= kMostDigitTokens && resident::Takes(args, 2);
}

// Of the kernels that multiply digits the fastest one where no multiprocessor gets more than one block and the next
// kernel's block fits beside it, measured on an H200.
bool PrefersResidentDigits(const GemmArgs& args) {
  return AcceptsResidentDigits(args) && (args.n + 31) / 32 <= resident::kMultiprocessors && args.k <= 4096;
}

cudaError_t LaunchResidentDigits(const GemmArgs& args, cudaStream_t stream) {
  const bool wide = resident::DigitLayoutOf(resident::MakePlan(args, 2), 32).bytes <= resident::kSharedBytes;
  if (args.type == DType::kF16) {
    return args.m == 1 ? resident::LaunchTokens<__half, 1>(args, wide, stream)
                       : resident::LaunchTokens<__half, 2>(args, wide, stream);
  }
  return args.m == 1 ? resident::LaunchTokens<__nv_bfloat16, 1>(args, wide, stream)
                     : resident::LaunchTokens<__nv_bfloat16, 2>(args, wide, stream);
}

}  // namespace lowbit::cuda
