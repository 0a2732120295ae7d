// The inner products of the decode kernels. A block is 64 bytes of a weight row; thread q of four holds 16 of them
// (16q ... 16q+15) of the rows r and r + 8 of the warp's 16. Since a sum may take its channels in any order, the mma's
// channel positions are given out so that a thread's own 16 bytes are its fragments, and activations are staged in
// shared memory in that order:
//
//   nibbles, int8 activations:  8 channels -> [k0 k2 k4 k6 | k1 k3 k5 k7]: a word's even and odd nibbles
//   nibbles, 16-bit activations: 8 channels -> [k0 k4 k1 k5 k2 k6 k3 k7]: nibbles j and j + 4 unpack to one register
//   bytes: as they are
#pragma once
#include "ops/common/cuda/numeric.cuh"
#include "ops/common/cuda/ptx.cuh"

namespace lowbit::cuda {

constexpr int kBlockBytes = 64;  // of a weight row

// int8 codes on both sides; nibbles stand for 16 times their value, which kNibbleFactor takes back.
struct CodeMath {
  using Acc = int;
  static constexpr int kActivationBytes = 1;
  static constexpr bool kPacked = false;
  static constexpr float kNibbleFactor = 1.0f / 16.0f;

  // 16 bytes of activations in the order of nibbles.
  __device__ __forceinline__ static uint4 NibbleOrder(uint4 v) {
    return make_uint4(__byte_perm(v.x, v.y, 0x6420), __byte_perm(v.x, v.y, 0x7531), __byte_perm(v.z, v.w, 0x6420),
                      __byte_perm(v.z, v.w, 0x7531));
  }

  // acc[t] += weights . activations for one block. `staged` is this thread's place in token tile 0, `tile_stride` the
  // bytes between token tiles; `mask` is all ones, or zero where this thread's channels are outside the group.
  template <int kTiles>
  __device__ __forceinline__ static void Nibbles(const uint4 (&w)[2], const uint8_t* staged, int tile_stride,
                                                 uint32_t mask, int (&acc)[kTiles][4]) {
    const uint32_t w0[4] = {w[0].x, w[0].y, w[0].z, w[0].w}, w1[4] = {w[1].x, w[1].y, w[1].z, w[1].w};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const uint4* from = reinterpret_cast<const uint4*>(staged + t * tile_stride);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint4 b = from[h];
        MmaS8(acc[t], (w0[2 * h] << 4) & 0xf0f0f0f0u, (w1[2 * h] << 4) & 0xf0f0f0f0u, w0[2 * h] & 0xf0f0f0f0u,
              w1[2 * h] & 0xf0f0f0f0u, b.x & mask, b.y & mask);
        MmaS8(acc[t], (w0[2 * h + 1] << 4) & 0xf0f0f0f0u, (w1[2 * h + 1] << 4) & 0xf0f0f0f0u,
              w0[2 * h + 1] & 0xf0f0f0f0u, w1[2 * h + 1] & 0xf0f0f0f0u, b.z & mask, b.w & mask);
      }
    }
  }
  template <int kTiles>
  __device__ __forceinline__ static void Bytes(const uint4 (&w)[2], const uint8_t* staged, int tile_stride,
                                               int (&acc)[kTiles][4]) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const uint4 b = *reinterpret_cast<const uint4*>(staged + t * tile_stride);
      MmaS8(acc[t], w[0].x, w[1].x, w[0].y, w[1].y, b.x, b.y);
      MmaS8(acc[t], w[0].z, w[1].z, w[0].w, w[1].w, b.z, b.w);
    }
  }
};

// 4-bit codes on both sides through the INT4 tensor cores of sm_80 ... sm_89; later chips emulate them, slowly.
// Activations are packed to nibbles while they are staged. Outliers stay int8.
struct NibbleMath : CodeMath {
  static constexpr bool kPacked = true;
  static constexpr float kNibbleFactor = 1.0f;

  // Eight codes of -8 ... 7, one a byte, as eight nibbles.
  __device__ __forceinline__ static uint32_t Pack(uint2 v) {
    const uint32_t x = v.x & 0x0f0f0f0fu, y = v.y & 0x0f0f0f0fu;
    return __byte_perm(x | x >> 4, y | y >> 4, 0x6420);
  }

  template <int kTiles>
  __device__ __forceinline__ static void Nibbles(const uint4 (&w)[2], const uint8_t* staged, int tile_stride,
                                                 uint32_t mask, int (&acc)[kTiles][4]) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const uint4 b = *reinterpret_cast<const uint4*>(staged + t * tile_stride);
      MmaS4(acc[t], w[0].x, w[1].x, w[0].y, w[1].y, b.x & mask, b.y & mask);
      MmaS4(acc[t], w[0].z, w[1].z, w[0].w, w[1].w, b.z & mask, b.w & mask);
    }
  }
};

// Codes as 16-bit floats, exactly: an integer in the low mantissa bits of a magic number, the magic subtracted.
struct HalfPair {
  static constexpr uint32_t kMagic = 0x64006400u;  // 1024
  __device__ __forceinline__ static uint32_t Minus(uint32_t v, float bias) {
    const __half2 h = __hsub2(*reinterpret_cast<const __half2*>(&v), __float2half2_rn(bias + 1024.0f));
    return *reinterpret_cast<const uint32_t*>(&h);
  }
  __device__ __forceinline__ static void Mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
    MmaF16(d, a0, a1, a2, a3, b0, b1);
  }
  // The two low bytes (or, with 0x4342, the two high ones) of w + 128 as floats.
  __device__ __forceinline__ static uint32_t BytePair(uint32_t w, bool high) {
    return Minus(__byte_perm(w ^ 0x80808080u, kMagic, high ? 0x5352 : 0x5150), 128.0f);
  }
};

struct BFloatPair {
  static constexpr uint32_t kMagic = 0x43004300u;  // 128
  __device__ __forceinline__ static uint32_t Minus(uint32_t v, float bias) {
    const __nv_bfloat162 h = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&v), __float2bfloat162_rn(bias + 128.0f));
    return *reinterpret_cast<const uint32_t*>(&h);
  }
  __device__ __forceinline__ static void Mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
    MmaBF16(d, a0, a1, a2, a3, b0, b1);
  }
  // bfloat16 has 8 significant bits: every int8 is exact, but a magic with 8 free bits is not there.
  __device__ __forceinline__ static uint32_t BytePair(uint32_t w, bool high) {
    const int x = static_cast<int8_t>(high ? w >> 16 : w), y = static_cast<int8_t>(high ? w >> 24 : w >> 8);
    const __nv_bfloat162 h = __floats2bfloat162_rn(static_cast<float>(x), static_cast<float>(y));
    return *reinterpret_cast<const uint32_t*>(&h);
  }
};

// 16-bit float activations (weight-only), sums in binary32.
template <class Pair>
struct FloatMath {
  using Acc = float;
  static constexpr int kActivationBytes = 2;
  static constexpr bool kPacked = false;
  static constexpr float kNibbleFactor = 1.0f;

  __device__ __forceinline__ static uint4 NibbleOrder(uint4 v) {
    return make_uint4(__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632), __byte_perm(v.y, v.w, 0x5410),
                      __byte_perm(v.y, v.w, 0x7632));
  }
  // Nibbles j and j + 4 of a word of two's complement nibbles.
  __device__ __forceinline__ static uint32_t NibblePair(uint32_t flipped, int j) {
    return Pair::Minus(((flipped >> (4 * j)) & 0x000f000fu) | Pair::kMagic, 8.0f);
  }

  template <int kTiles>
  __device__ __forceinline__ static void Nibbles(const uint4 (&w)[2], const uint8_t* staged, int tile_stride,
                                                 uint32_t mask, float (&acc)[kTiles][4]) {
    const uint32_t w0[4] = {w[0].x, w[0].y, w[0].z, w[0].w}, w1[4] = {w[1].x, w[1].y, w[1].z, w[1].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t x = w0[i] ^ 0x88888888u, y = w1[i] ^ 0x88888888u;
      uint32_t a[4], b[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) a[j] = NibblePair(x, j), b[j] = NibblePair(y, j);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint4 v = reinterpret_cast<const uint4*>(staged + t * tile_stride)[i];
        Pair::Mma(acc[t], a[0], b[0], a[1], b[1], v.x & mask, v.y & mask);
        Pair::Mma(acc[t], a[2], b[2], a[3], b[3], v.z & mask, v.w & mask);
      }
    }
  }
  template <int kTiles>
  __device__ __forceinline__ static void Bytes(const uint4 (&w)[2], const uint8_t* staged, int tile_stride,
                                               float (&acc)[kTiles][4]) {
    const uint32_t w0[4] = {w[0].x, w[0].y, w[0].z, w[0].w}, w1[4] = {w[1].x, w[1].y, w[1].z, w[1].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t a0 = Pair::BytePair(w0[i], false), a2 = Pair::BytePair(w0[i], true);
      const uint32_t a1 = Pair::BytePair(w1[i], false), a3 = Pair::BytePair(w1[i], true);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint2 v = reinterpret_cast<const uint2*>(staged + t * tile_stride)[i];
        Pair::Mma(acc[t], a0, a1, a2, a3, v.x, v.y);
      }
    }
  }
};

}  // namespace lowbit::cuda
