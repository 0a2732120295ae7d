// QuantGemm with 16-bit float activations and 4-bit weights on Hopper's tensor cores, in the frame of wide_sm90.cuh.
//
// Weights become 16-bit floats, code times scale rounded once, on their way to wgmma's register operand. Sums then
// never leave the tensor cores, and one wgmma group is always queued behind the running one: while it waits, the next
// step's weights are unpacked.
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/wide_sm90.cuh"

namespace lowbit::cuda {
namespace wide {
namespace {

// Sums are results already.
struct NoScales {
  __device__ __forceinline__ NoScales(const GemmArgs&, int, int64_t) {}
  __device__ __forceinline__ void Apply(int, const float (&sum)[8], float (&v)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = sum[i];
  }
};

// kGroups: scales of a row in a step, 2 with groups of 32 channels.
template <class T, int kGroups>
struct NibbleMath {
  using Type = T;
  using Sum = float;
  using Scales = NoScales;
  using T2 = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  static constexpr bool kHalf = std::is_same_v<T, __half>;
  static constexpr int kStepChannels = 64, kTokenElement = 2, kWeightRow = kStepChannels / 2;
  using Operand = uint32_t[4][4];  // four registers for each 16 channels

  // A weight scale, twice in a register. bfloat16 has fewer digits than a scale, so there are two of them: their sum is
  // the scale.
  struct Scale {
    T2 high, low;
    Scale() = default;
    __device__ __forceinline__ explicit Scale(uint16_t bits) {
      if constexpr (kHalf) {
        high = low = __half2half2(__ushort_as_half(bits));
      } else {
        const float s = Widen(__ushort_as_half(bits));
        high = __float2bfloat162_rn(s);
        low = __float2bfloat162_rn(s - __low2float(high));
      }
    }
  };

  // The two nibbles of byte q of a word times their scale: they stand in a magic number's mantissa with their sign bits
  // flipped, the high one as 16 times its value where there is room.
  static __device__ __forceinline__ uint32_t Unpack(uint32_t word, uint32_t select, const Scale& scale) {
    const uint32_t byte = __byte_perm(word, 0, select);
    T2 h;
    if constexpr (kHalf) {
      const uint32_t v = (byte & 0x00f0000fu) ^ 0x64806408u;
      const T2 code = __hfma2(*reinterpret_cast<const T2*>(&v), __floats2half2_rn(1.0f, 0.0625f),
                              __floats2half2_rn(-1032.0f, -72.0f));
      h = __hmul2(code, scale.high);
    } else {
      const uint32_t v = ((byte & 0x0000000fu) | ((byte >> 4) & 0x000f0000u)) ^ 0x43084308u;
      const T2 code = __hadd2(*reinterpret_cast<const T2*>(&v), __float2bfloat162_rn(-136.0f));
      h = __hfma2(code, scale.high, __hmul2(code, scale.low));
    }
    return *reinterpret_cast<const uint32_t*>(&h);
  }

  template <class C, int kSums>
  static __device__ __forceinline__ void Body(C& c, const Work& work, float (&sum)[kSums]) {
    if (work.first >= work.last) return;
    const int lane = threadIdx.x % 32, q = lane % 4, steps = c.plan().group_steps;
    // Thread q of a row needs channels 2q, 2q + 1 of every eight: byte q of every word.
    const uint32_t select = 0x4040 | q | q << 8;
    const int chunk = lane / 16;  // rows 4 ... 7 of eight have their two 16-byte pieces swapped
    const GemmArgs& args = c.plan().args;
    const int n = work.channel + c.row();
    const int groups = args.b_scales() / kGroups;
    int in_group = work.first % steps, group = work.first / steps;
    using Bits = std::conditional_t<kGroups == 1, uint16_t, uint32_t>;  // of the scales of a row in a step
    const Bits* const scales = reinterpret_cast<const Bits*>(args.b_scale);
    const Bits* const rows[2] = {scales + static_cast<int64_t>(min(n, args.n - 1)) * groups,
                                 scales + static_cast<int64_t>(min(n + 8, args.n - 1)) * groups};
    Bits next_scales[2] = {__ldg(rows[0] + group), __ldg(rows[1] + group)};
    auto ahead = c.ring();
    const auto prepare = [&](Operand& a) {
      Scale scale[kGroups][2];
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) scale[i][h] = Scale(static_cast<uint16_t>(next_scales[h] >> 16 * i));
      }
      if (++in_group == steps) {
        in_group = 0;
        group = min(group + 1, groups - 1);
        next_scales[0] = __ldg(rows[0] + group), next_scales[1] = __ldg(rows[1] + group);
      }
      c.WaitFull(ahead);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint4 w = *reinterpret_cast<const uint4*>(c.WeightRow(ahead.stage, 8 * h) + 16 * (chunk ^ i));
          const Scale& by = scale[i * (kGroups - 1)][h];
          a[2 * i][h] = Unpack(w.x, select, by), a[2 * i][h + 2] = Unpack(w.y, select, by);
          a[2 * i + 1][h] = Unpack(w.z, select, by), a[2 * i + 1][h + 2] = Unpack(w.w, select, by);
        }
      }
      ahead.Advance();
    };
    const auto run = [&](Operand& now, Operand& next, int step) {
      const uint64_t tokens = c.Tokens();
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < 4; ++i) WgmmaHalf(T{}, sum, now[i], tokens + 2 * i, 1);
      WgmmaCommit();
      WgmmaWait<1>();
      if (step > work.first) c.Release(c.Before(c.stage()));
      if (step + 1 < work.last) prepare(next);
      c.Advance();
    };
    Operand even, odd;
    prepare(even);
    int step = work.first;
    for (; step + 1 < work.last; step += 2) {
      run(even, odd, step);
      run(odd, even, step + 1);
    }
    if (step < work.last) run(even, odd, step);
    WgmmaWait<0>();
    c.Release(c.Before(c.stage()));
    SumsAreReady(sum);
  }
};

template <class Math>
cudaError_t LaunchShape(const GemmArgs& args, WideShape shape, cudaStream_t stream) {
  if (shape.tokens == 64) return Launch<Math, 64>(args, shape.split, stream);
  if (shape.tokens == 128) return Launch<Math, 128>(args, shape.split, stream);
  return Launch<Math, 256>(args, shape.split, stream);
}

template <class T>
cudaError_t LaunchTyped(const GemmArgs& args, WideShape shape, cudaStream_t stream) {
  return args.segment() % 64 ? LaunchShape<NibbleMath<T, 2>>(args, shape, stream)
                             : LaunchShape<NibbleMath<T, 1>>(args, shape, stream);
}

}  // namespace
}  // namespace wide

bool AcceptsWeightOnlySm90(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.weight_format == Format::kS4 &&
         args.outliers == 0 && args.n % 8 == 0 && args.k % 64 == 0 &&
         (args.segment() % 64 == 0 || args.segment() == 32) && args.m <= (1LL << 30) &&
         CopyEngineTakes(args.a, 2ull * args.k) && CopyEngineTakes(args.b, args.k / 2) &&
         CopyEngineTakes(args.y, 2ull * args.n) && CopyEngineTakes(args.residual, 2ull * args.n);
}

cudaError_t LaunchWeightOnlySm90With(const GemmArgs& args, WideShape shape, cudaStream_t stream) {
  return args.type == DType::kF16 ? wide::LaunchTyped<__half>(args, shape, stream)
                                  : wide::LaunchTyped<__nv_bfloat16>(args, shape, stream);
}

cudaError_t LaunchWeightOnlySm90(const GemmArgs& args, cudaStream_t stream) {
  return LaunchWeightOnlySm90With(args, ChooseWideShape(args), stream);
}

}  // namespace lowbit::cuda
