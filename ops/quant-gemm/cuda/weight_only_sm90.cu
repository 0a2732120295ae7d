// QuantGemm with 16-bit float activations and 4-bit weights on Hopper's tensor cores, in the frame of wide_sm90.cuh.
//
// Weights become 16-bit floats, code times scale rounded once, on their way to wgmma's register operand. Sums then
// never leave the tensor cores, and one wgmma group is always queued behind the running one: while it waits, the next
// step's weights are unpacked.
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/wide_launch.cuh"

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
  static constexpr uint32_t kMask = kHalf ? 0x00f0000f : 0x000f000f, kFlip = kHalf ? 0x00800008 : 0x43084308;
  using Operand = uint32_t[4][4];  // four registers for each 16 channels

  // A weight scale as Unpack wants it, times a power of two.
  struct Scale {
    T2 first, second;

    Scale() = default;
    __device__ __forceinline__ Scale(uint16_t bits, float factor) {
      const float s = Widen(__ushort_as_half(bits)) * factor;
      if constexpr (kHalf) {
        first = __floats2half2_rn(s * 0x1p24f, s * 0x1p20f);
        second = __float2half2_rn(s * -8.0f);
      } else {  // bfloat16 has fewer digits than a scale: their sum is the scale
        first = __float2bfloat162_rn(s);
        second = __float2bfloat162_rn(s - __low2float(first));
      }
    }
  };

  // The two nibbles of byte q of a word times their scale, with their sign bits flipped first, which adds 8. float16:
  // they are subnormal numbers, 2^-24 and 2^-20 times their value, and one FMA does the rest. bfloat16, whose
  // exponents do not reach that far: they stand in the mantissa of 128.
  static __device__ __forceinline__ uint32_t Unpack(const Plan& plan, uint32_t word, uint32_t select, const Scale& s) {
    T2 h;
    if constexpr (kHalf) {
      const uint32_t v = (__byte_perm(word, 0, select) & plan.mask) ^ plan.flip;
      h = __hfma2(*reinterpret_cast<const T2*>(&v), s.first, s.second);
    } else {
      const uint32_t v = (__byte_perm(word, word >> 4, select) & plan.mask) ^ plan.flip;
      const T2 code = __hadd2(*reinterpret_cast<const T2*>(&v), __float2bfloat162_rn(-136.0f));
      h = __hfma2(code, s.first, __hmul2(code, s.second));
    }
    return *reinterpret_cast<const uint32_t*>(&h);
  }

  // The power of two that brings the largest scale of a row to 2^-9 ... 2^-8, where Unpack's factors fit float16 and
  // products keep their digits. The four threads of the row share the work.
  static __device__ __forceinline__ float RowFactor(const uint16_t* scales, int count) {
    uint32_t most = 0;
#pragma unroll 8
    for (int i = threadIdx.x % 4; i < count; i += 4) most = max(most, __ldg(scales + i) & 0x7fffu);
    most = max(most, __shfl_xor_sync(~0u, most, 1));
    most = max(most, __shfl_xor_sync(~0u, most, 2));
    const int exponent = __float_as_int(Widen(__ushort_as_half(static_cast<uint16_t>(most)))) >> 23;
    return __int_as_float(max(245 - exponent, 1) << 23);
  }

  template <class C, int kSums>
  static __device__ __forceinline__ void Body(C& c, const Work& work, float (&sum)[kSums]) {
    if (work.first >= work.last) return;
    const int lane = threadIdx.x % 32, q = lane % 4, steps = c.plan().group_steps;
    // Thread q of a row needs channels 2q, 2q + 1 of every eight: byte q of every word.
    const uint32_t select = kHalf ? 0x4040 | q | q << 8 : 0x0040 | q | q << 8 | 4 << 8;
    const int chunk = lane / 16;  // rows 4 ... 7 of eight have their two 16-byte pieces swapped
    const Plan& plan = c.plan();
    const GemmArgs& args = plan.args;
    const int n = work.channel + c.row();
    const int groups = args.b_scales() / kGroups;
    int in_group = work.first % steps, group = work.first / steps;
    using Bits = std::conditional_t<kGroups == 1, uint16_t, uint32_t>;  // of the scales of a row in a step
    const Bits* rows[2];
    Scale scale[kGroups][2];
    Bits next_scales[2];
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rows[h] = reinterpret_cast<const Bits*>(args.b_scale) + static_cast<int64_t>(min(n + 8 * h, args.n - 1)) * groups;
      next_scales[h] = __ldg(rows[h] + group);
      factor[h] = kHalf ? RowFactor(reinterpret_cast<const uint16_t*>(rows[h]), args.b_scales()) : 1.0f;
    }
    const auto take_scales = [&] {
      group = min(group + 1, groups - 1);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < kGroups; ++i)
          scale[i][h] = Scale(static_cast<uint16_t>(next_scales[h] >> 16 * i), factor[h]);
        next_scales[h] = __ldg(rows[h] + group);
      }
    };
    take_scales();
    auto ahead = c.ring();
    const auto prepare = [&](Operand& a) {
      if (in_group == steps) {
        in_group = 0;
        take_scales();
      }
      ++in_group;
      c.WaitFull(ahead);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint4 w = *reinterpret_cast<const uint4*>(c.WeightRow(ahead.stage, 8 * h) + 16 * (chunk ^ i));
          const Scale& by = scale[i * (kGroups - 1)][h];
          a[2 * i][h] = Unpack(plan, w.x, select, by), a[2 * i][h + 2] = Unpack(plan, w.y, select, by);
          a[2 * i + 1][h] = Unpack(plan, w.z, select, by), a[2 * i + 1][h + 2] = Unpack(plan, w.w, select, by);
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
    if constexpr (kHalf) {
#pragma unroll
      for (int h = 0; h < 2; ++h) factor[h] = __int_as_float((254 << 23) - __float_as_int(factor[h]));  // the inverse
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] *= factor[i / 2 % 2];
    }
  }
};

template <class Math>
cudaError_t LaunchShape(const GemmArgs& args, WideShape shape, cudaStream_t stream) {
  if (shape.tokens == 64) return Launch<Math, 64>(args, shape.split, stream);
  if (shape.tokens == 128) return Launch<Math, 128>(args, shape.split, stream);
  if (shape.tokens == 176) return Launch<Math, 176>(args, shape.split, stream);
  if (shape.tokens == 240) return Launch<Math, 240>(args, shape.split, stream);
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
