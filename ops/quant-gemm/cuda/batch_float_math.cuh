// The inner products of the batch kernels for 16-bit float activations: steps of 128 channels of 64 output channels by
// wgmma, nibbles as its register operand. A Math has:
//   kTiles (of 8 tokens), Acc, kAccs (sums in the tensor cores), kFactor (what results are to be multiplied by)
//   kTokenScales: floats a step that Arrange leaves for Add
//   Arrange(slot, helper, scales): a step's tokens, two runs of 64 channels as the copy engine swizzles them, into the
//     order of the unpacked weights, in place
//   Unpack(w0, w1, a): 16 nibbles of two rows -> operands of half a step
//   Multiply(acc, a, half, tokens): half a step; tokens: descriptor of the slot
//   Add(acc, scale0, scale1, token_scale, sum): sums of a step, scaled
//   TokenOf(q, i): the token of a thread's sum i
#pragma once
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-gemm/cuda/float_digits.cuh"

namespace lowbit::cuda::batch_float {

constexpr int kHelpers = 2;  // warps that put tokens in order

// Nibbles as 16-bit floats.
template <class T, int kTileCount>
struct HalfMath {
  static constexpr int kTiles = kTileCount, kAccs = 4 * kTiles, kOperands = 4, kTokenScales = 0;
  static constexpr int kRunBytes = kTiles * 1024;
  static constexpr float kFactor = 1.0f;
  using Acc = float;
  using Pair = std::conditional_t<std::is_same_v<T, __half>, HalfPair, BFloatPair>;

  // Of the 32 channels that a thread of four has, eight after the other go to two multiplications of 16; pairs are four
  // channels apart (decode_math.cuh).
  static __device__ __forceinline__ void Arrange(uint8_t* slot, int helper, float*) {
    const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
    for (int tile = helper; tile < kTiles; tile += kHelpers) {
      uint8_t* const row = slot + tile * 1024 + r * 128;
      uint4 raw[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        raw[i] = *reinterpret_cast<const uint4*>(row + (q >> 1) * kRunBytes + (((4 * (q & 1) + i) ^ r) * 16));
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t v[4] = {__byte_perm(raw[i].x, raw[i].z, 0x5410), __byte_perm(raw[i].x, raw[i].z, 0x7632),
                               __byte_perm(raw[i].y, raw[i].w, 0x5410), __byte_perm(raw[i].y, raw[i].w, 0x7632)};
#pragma unroll
        for (int j = 0; j < 4; ++j) {  // multiplication 2i + j / 2, its channels 8 (j % 2) ...
          *reinterpret_cast<uint32_t*>(row + (i >> 1) * kRunBytes + (((4 * (i & 1) + j) ^ r) * 16) + 4 * q) = v[j];
        }
      }
    }
  }
  static __device__ __forceinline__ void Unpack(const uint32_t (&w0)[2], const uint32_t (&w1)[2],
                                                uint32_t (&a)[kOperands][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t x[4], y[4];
      Pair::S4(w0[i], x);
      Pair::S4(w1[i], y);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        a[2 * i + h][0] = x[2 * h], a[2 * i + h][1] = y[2 * h];
        a[2 * i + h][2] = x[2 * h + 1], a[2 * i + h][3] = y[2 * h + 1];
      }
    }
  }
  static __device__ __forceinline__ void Multiply(Acc (&acc)[kAccs], const uint32_t (&a)[kOperands][4], int half,
                                                  uint64_t tokens) {
#pragma unroll
    for (int i = 0; i < kOperands; ++i) {
      WgmmaHalf(T{}, acc, a[i], tokens + half * (kRunBytes / 16) + 2 * i, half > 0 || i > 0);
    }
  }
  static __device__ __forceinline__ void Add(const Acc (&acc)[kAccs], float scale0, float scale1, const float*,
                                             float (&sum)[4 * kTiles]) {
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) sum[i] = fmaf(acc[i], i / 2 % 2 ? scale1 : scale0, sum[i]);
  }
  static __device__ __forceinline__ int TokenOf(int q, int i) { return 2 * q + i % 2; }
};

// Up to four tokens as int8 digits. Of two tiles of columns thread q of four gets 2q and 2q + 1 of each: the digits of
// token q are these of the first one and 2q of the second, so that a token's sums are one thread's.
template <class T>
struct DigitMath {
  static constexpr int kTiles = 1, kAccs = 8, kOperands = 2, kTokenScales = 4;
  static constexpr float kFactor = CodeMath<true>::kFactor;
  using Acc = int;

  // Half a warp makes the digits of a token.
  static __device__ __forceinline__ void Arrange(uint8_t* slot, int helper, float* scales) {
    static_assert(kHelpers * 2 == kTokenScales);
    const int run = threadIdx.x % 16, token = 2 * helper + static_cast<int>(threadIdx.x) % 32 / 16;
    const uint4 raw = *reinterpret_cast<const uint4*>(slot + run / 8 * 1024 + token * 128 + ((run % 8) ^ token) * 16);
    NamedBarrier(1, 32 * kHelpers);  // all have read
    uint2 words[kDigits];
    const float scale = ToDigits<T>(raw, words);
    if (run == 0) scales[token] = scale;
      // Eight channels are a thread's share of multiplication run % 4: four even ones and, 16 bytes behind, odd ones.
#pragma unroll
    for (int d = 0; d < kDigits; ++d) {
      const int row = 2 * token + d % 2;
      uint8_t* const to = slot + d / 2 * 1024 + row * 128 + run / 4 * 4;
      *reinterpret_cast<uint32_t*>(to + ((2 * (run % 4)) ^ row) * 16) = words[d].x;
      *reinterpret_cast<uint32_t*>(to + ((2 * (run % 4) + 1) ^ row) * 16) = words[d].y;
    }
  }
  static __device__ __forceinline__ void Unpack(const uint32_t (&w0)[2], const uint32_t (&w1)[2],
                                                uint32_t (&a)[kOperands][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[i][0] = (w0[i] << 4) & 0xf0f0f0f0u, a[i][2] = w0[i] & 0xf0f0f0f0u;
      a[i][1] = (w1[i] << 4) & 0xf0f0f0f0u, a[i][3] = w1[i] & 0xf0f0f0f0u;
    }
  }
  static __device__ __forceinline__ void Multiply(Acc (&acc)[kAccs], const uint32_t (&a)[kOperands][4], int half,
                                                  uint64_t tokens) {
#pragma unroll
    for (int i = 0; i < kOperands; ++i) WgmmaS8(acc, a[i], tokens + 4 * half + 2 * i, half > 0 || i > 0);
  }
  static __device__ __forceinline__ void Add(const Acc (&acc)[kAccs], float scale0, float scale1,
                                             const float* token_scale, float (&sum)[4]) {
    const float scale = token_scale[threadIdx.x % 4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // rows r and r + 8; the two lower digits' sums fit 32 bits together
      const float low = static_cast<float>(acc[2 * i + 1] * 256 + acc[2 * i]);
      const float all = fmaf(static_cast<float>(acc[4 + 2 * i]), PlaceOf(2), low);
      sum[2 * i] = fmaf(all, (i ? scale1 : scale0) * scale, sum[2 * i]);
    }
  }
  // A thread has one token; its other two sums belong to none.
  static __device__ __forceinline__ int TokenOf(int q, int i) { return i % 2 ? 1 << 20 : q; }
};

}  // namespace lowbit::cuda::batch_float
