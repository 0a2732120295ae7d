// The inner products of the decode kernels. A step is 128 input channels of 16 output channels (rows r and r + 8 of a
// thread) and of 8 tokens (token r of a thread). Since a sum may take its channels in any order, the mma's channel
// positions are given out so that 16 bytes of a weight row are a thread's fragments as they lie in memory:
//
//   nibbles: thread q of four holds channels 32q ... 32q+31, 16 bytes; an activation word holds, of eight channels,
//     int8:       [k0 k2 k4 k6 | k1 k3 k5 k7], a weight word's even and odd nibbles
//     16-bit:     [k0 k4 k1 k5 k2 k6 k3 k7], nibbles j and j + 4 unpack to one register
//   bytes: thread q holds channels 16q ... 16q+15 and 64+16q ... 64+16q+15, as they are
//
// A Math has:
//   Acc, kActivationBytes, kNibbles, kFactor (what a sum is to be multiplied by), kWords (of a tile's B fragments)
//   Arrange(raw, b): activations of one token as loaded -> B fragments
//   Multiply(w, b, acc): acc[t] += weights . tokens; w[row half][16-byte piece]
#pragma once
#include "ops/common/cuda/numeric.cuh"
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-gemm/cuda/step_plan.h"

namespace lowbit::cuda {

__device__ __forceinline__ float HalfBits(uint16_t bits) { return Widen(__ushort_as_half(bits)); }

// Sign and magnitude (|q| <= 8, or 0x80 more) to two's complement, four codes at once; there is no negative zero.
__device__ __forceinline__ uint32_t TwosComplement(uint32_t v) {
  const uint32_t negative = (v >> 7) & 0x01010101u;
  return ((v & 0x0f0f0f0fu) ^ (negative * 255u)) + negative;
}

// int8 codes on both sides. Nibbles stand for 16 times their value.
template <bool kNibbleWeights>
struct CodeMath {
  using Acc = int;
  static constexpr bool kNibbles = kNibbleWeights;
  static constexpr int kActivationBytes = 1;
  static constexpr int kWords = 8;
  static constexpr float kFactor = kNibbles ? 1.0f / 16.0f : 1.0f;
  static constexpr bool kSignMagnitude = false;

  __device__ __forceinline__ static void Arrange(const uint4 (&raw)[2], bool sign_magnitude, uint32_t (&b)[kWords]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32_t v[4] = {raw[h].x, raw[h].y, raw[h].z, raw[h].w};
      if (sign_magnitude) {
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = TwosComplement(v[i]);
      }
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        b[4 * h + i] = kNibbles ? __byte_perm(v[i], v[i + 1], 0x6420) : v[i];
        b[4 * h + i + 1] = kNibbles ? __byte_perm(v[i], v[i + 1], 0x7531) : v[i + 1];
      }
    }
  }

  template <int kTiles>
  __device__ __forceinline__ static void Multiply(const uint4 (&w)[2][kNibbles ? 1 : 2],
                                                  const uint32_t (&b)[kTiles][kWords], int (*acc)[4]) {
    if constexpr (kNibbles) {
      const uint32_t w0[4] = {w[0][0].x, w[0][0].y, w[0][0].z, w[0][0].w};
      const uint32_t w1[4] = {w[1][0].x, w[1][0].y, w[1][0].z, w[1][0].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t even0 = (w0[i] << 4) & 0xf0f0f0f0u, even1 = (w1[i] << 4) & 0xf0f0f0f0u;
        const uint32_t odd0 = w0[i] & 0xf0f0f0f0u, odd1 = w1[i] & 0xf0f0f0f0u;
#pragma unroll
        for (int t = 0; t < kTiles; ++t) MmaS8(acc[t], even0, even1, odd0, odd1, b[t][2 * i], b[t][2 * i + 1]);
      }
    } else {
      MultiplyBytes<kTiles>(w, b, acc);
    }
  }
  // Also what multiplies outliers.
  template <int kTiles>
  __device__ __forceinline__ static void MultiplyBytes(const uint4 (&w)[2][2], const uint32_t (&b)[kTiles][8],
                                                       int (*acc)[4]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        MmaS8(acc[t], w[0][h].x, w[1][h].x, w[0][h].y, w[1][h].y, b[t][4 * h], b[t][4 * h + 1]);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        MmaS8(acc[t], w[0][h].z, w[1][h].z, w[0][h].w, w[1][h].w, b[t][4 * h + 2], b[t][4 * h + 3]);
      }
    }
  }
};

// The same with nibbles and activations in format s4_e4m3.
struct SignMagnitudeMath : CodeMath<true> {
  static constexpr bool kSignMagnitude = true;
};

// 4-bit codes on both sides through the INT4 tensor cores of sm_80 ... sm_89; later chips emulate them, slowly.
struct NibbleMath {
  using Acc = int;
  static constexpr bool kNibbles = true;
  static constexpr int kActivationBytes = 1;
  static constexpr int kWords = 4;
  static constexpr float kFactor = 1.0f;

  // Eight codes of -8 ... 7, one a byte, as eight nibbles.
  __device__ __forceinline__ static uint32_t Pack(uint32_t low, uint32_t high) {
    const uint32_t x = low & 0x0f0f0f0fu, y = high & 0x0f0f0f0fu;
    return __byte_perm(x | x >> 4, y | y >> 4, 0x6420);
  }
  __device__ __forceinline__ static void Arrange(const uint4 (&raw)[2], bool, uint32_t (&b)[kWords]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) b[2 * h] = Pack(raw[h].x, raw[h].y), b[2 * h + 1] = Pack(raw[h].z, raw[h].w);
  }
  template <int kTiles>
  __device__ __forceinline__ static void Multiply(const uint4 (&w)[2][1], const uint32_t (&b)[kTiles][kWords],
                                                  int (*acc)[4]) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      MmaS4(acc[t], w[0][0].x, w[1][0].x, w[0][0].y, w[1][0].y, b[t][0], b[t][1]);
      MmaS4(acc[t], w[0][0].z, w[1][0].z, w[0][0].w, w[1][0].w, b[t][2], b[t][3]);
    }
  }
};

// Masks of nibbles whose values the compiler does not know: an instruction takes one constant, and `(w & mask) ^ magic`
// with two of them would be two instructions.
static __constant__ uint32_t kNibbleMasks[2] = {0x000f000fu, 0x00f000f0u};

// Nibbles j and j + 4 of a word, and pairs of bytes, as two 16-bit floats.
__device__ __forceinline__ uint32_t HalfFma(uint32_t v, float factor, float addend) {
  const __half2 h = __hfma2(*reinterpret_cast<const __half2*>(&v), __float2half2_rn(factor), __float2half2_rn(addend));
  return *reinterpret_cast<const uint32_t*>(&h);
}
__device__ __forceinline__ uint32_t BFloatPlus(uint32_t v, float addend) {
  const __nv_bfloat162 h = __hadd2(*reinterpret_cast<const __nv_bfloat162*>(&v), __float2bfloat162_rn(addend));
  return *reinterpret_cast<const uint32_t*>(&h);
}

// Integers become floats exactly: they stand in the low mantissa bits of a magic number, which is then subtracted.
struct HalfPair {
  __device__ __forceinline__ static void Mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
    MmaF16(d, a0, a1, a2, a3, b0, b1);
  }
  // v[j]: nibbles j and j + 4. The sign bit is flipped with the magic's bits: 0 ... 15 stands for -8 ... 7.
  __device__ __forceinline__ static void S4(uint32_t w, uint32_t (&v)[4]) {
    const uint32_t high = w >> 8, low_mask = kNibbleMasks[0], high_mask = kNibbleMasks[1];
    v[0] = HalfFma((w & low_mask) ^ 0x64086408u, 1.0f, -1032.0f);
    v[1] = HalfFma((w & high_mask) ^ 0x64806480u, 0.0625f, -72.0f);
    v[2] = HalfFma((high & low_mask) ^ 0x64086408u, 1.0f, -1032.0f);
    v[3] = HalfFma((high & high_mask) ^ 0x64806480u, 0.0625f, -72.0f);
  }
  // v[0]: bytes 0 and 1, v[1]: bytes 2 and 3.
  __device__ __forceinline__ static void S8(uint32_t w, uint32_t (&v)[2]) {
    const uint32_t biased = w ^ 0x80808080u;
    v[0] = HalfFma(__byte_perm(biased, 0x64646464u, 0x4140), 1.0f, -1152.0f);
    v[1] = HalfFma(__byte_perm(biased, 0x64646464u, 0x4342), 1.0f, -1152.0f);
  }
};

struct BFloatPair {
  __device__ __forceinline__ static void Mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
    MmaBF16(d, a0, a1, a2, a3, b0, b1);
  }
  __device__ __forceinline__ static void S4(uint32_t w, uint32_t (&v)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = BFloatPlus(((w >> (4 * j)) & kNibbleMasks[0]) ^ 0x43084308u, -136.0f);
  }
  // Every int8 has at most 8 significant bits, but a magic with 8 free bits is not there.
  __device__ __forceinline__ static void S8(uint32_t w, uint32_t (&v)[2]) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int x = static_cast<int8_t>(w >> (16 * j)), y = static_cast<int8_t>(w >> (16 * j + 8));
      const __nv_bfloat162 h = __floats2bfloat162_rn(static_cast<float>(x), static_cast<float>(y));
      v[j] = *reinterpret_cast<const uint32_t*>(&h);
    }
  }
};

// 16-bit float activations (weight-only), sums in binary32.
template <class Pair, bool kNibbleWeights>
struct FloatMath {
  using Acc = float;
  static constexpr bool kNibbles = kNibbleWeights;
  static constexpr int kActivationBytes = 2;
  static constexpr bool kSignMagnitude = false;
  static constexpr int kWords = 16;
  static constexpr float kFactor = 1.0f;

  __device__ __forceinline__ static void Arrange(const uint4 (&raw)[4], bool, uint32_t (&b)[kWords]) {
#pragma unroll
    for (int h = 0; h < 4; ++h) {
      const uint4 v = raw[h];
      b[4 * h + 0] = kNibbles ? __byte_perm(v.x, v.z, 0x5410) : v.x;
      b[4 * h + 1] = kNibbles ? __byte_perm(v.x, v.z, 0x7632) : v.y;
      b[4 * h + 2] = kNibbles ? __byte_perm(v.y, v.w, 0x5410) : v.z;
      b[4 * h + 3] = kNibbles ? __byte_perm(v.y, v.w, 0x7632) : v.w;
    }
  }
  template <int kTiles>
  __device__ __forceinline__ static void Multiply(const uint4 (&w)[2][kNibbles ? 1 : 2],
                                                  const uint32_t (&b)[kTiles][kWords], float (*acc)[4]) {
    constexpr int kPieces = kNibbles ? 1 : 2;
#pragma unroll
    for (int h = 0; h < kPieces; ++h) {
      const uint32_t w0[4] = {w[0][h].x, w[0][h].y, w[0][h].z, w[0][h].w};
      const uint32_t w1[4] = {w[1][h].x, w[1][h].y, w[1][h].z, w[1][h].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (kNibbles) {
          uint32_t x[4], y[4];
          Pair::S4(w0[i], x);
          Pair::S4(w1[i], y);
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
            Pair::Mma(acc[t], x[0], y[0], x[1], y[1], b[t][4 * i], b[t][4 * i + 1]);
            Pair::Mma(acc[t], x[2], y[2], x[3], y[3], b[t][4 * i + 2], b[t][4 * i + 3]);
          }
        } else {
          uint32_t x[2], y[2];
          Pair::S8(w0[i], x);
          Pair::S8(w1[i], y);
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
            Pair::Mma(acc[t], x[0], y[0], x[1], y[1], b[t][8 * h + 2 * i], b[t][8 * h + 2 * i + 1]);
          }
        }
      }
    }
  }
};

// 1.5 * 2^23 as a float: an integer below 2^22 that is added to its bits stands in the mantissa. A step's sums are that
// small: 128 products of two codes of at most 128.
constexpr int kMagicBits = 0x4b400000;
template <class Acc>
constexpr Acc kStartOfStep = 0;
template <>
constexpr int kStartOfStep<int> = kMagicBits;

template <class Acc, int kTiles>
__device__ __forceinline__ void Start(Acc (&acc)[kTiles][4], Acc value) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[t][i] = value;
  }
}

template <bool kStep>
__device__ __forceinline__ float SumOf(float acc) {
  return acc;
}
template <bool kStep>
__device__ __forceinline__ float SumOf(int acc) {
  return kStep ? __int_as_float(acc) - __int_as_float(kMagicBits) : static_cast<float>(acc);
}

// sum += acc * weight scale * token scale; `token_scale` is that of the first tile's token 2q; float activations have
// none. Element i is row r + 8 * (i / 2), token 8t + 2q + i % 2. kStep: the sums began at kStartOfStep, otherwise at 0.
template <bool kTokens, bool kStep = true, class Acc, int kCount>
__device__ __forceinline__ void Promote(const Acc (&acc)[kCount][4], const float* token_scale, float weight0,
                                        float weight1, float (*sum)[4]) {
#pragma unroll
  for (int t = 0; t < kCount; ++t) {
    float2 s = make_float2(1.0f, 1.0f);
    if constexpr (kTokens) s = *reinterpret_cast<const float2*>(token_scale + 8 * t);
    sum[t][0] = fmaf(SumOf<kStep>(acc[t][0]), weight0 * s.x, sum[t][0]);
    sum[t][1] = fmaf(SumOf<kStep>(acc[t][1]), weight0 * s.y, sum[t][1]);
    sum[t][2] = fmaf(SumOf<kStep>(acc[t][2]), weight1 * s.x, sum[t][2]);
    sum[t][3] = fmaf(SumOf<kStep>(acc[t][3]), weight1 * s.y, sum[t][3]);
  }
}

}  // namespace lowbit::cuda
