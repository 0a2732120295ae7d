// Inner products of 4-bit minifloat weights and 8-bit float activations (ops/formats/README.md) for the resident
// kernels, on 16-bit tensor cores: every e2m1, e3m0, e4m3 and e5m2 value is a binary16 but for a power of two, products
// are exact and sums are binary32. (mma.sync on 8-bit floats would be one instruction less, but Hopper's keeps fewer
// bits.)
#pragma once
#include <cuda_fp8.h>

#include "ops/quant-gemm/cuda/decode_math.cuh"

namespace lowbit::cuda {

// Two codes in the low 16 bits as two binary16 values.
template <bool kE5M2>
__device__ __forceinline__ uint32_t HalvesOf(uint32_t codes) {
  const __half2_raw h =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), kE5M2 ? __NV_E5M2 : __NV_E4M3);
  return static_cast<uint32_t>(h.x) | static_cast<uint32_t>(h.y) << 16;
}

// Nibbles j and j + 4 of a word as two binary16 values of which only the upper bytes are not zero: the sign on top, the
// magnitude `kUp` bits above the byte's bottom. Even and odd nibbles first become four such bytes each.
template <int kUp>
__device__ __forceinline__ void NibbleHalves(uint32_t w, uint32_t (&v)[4]) {
  constexpr uint32_t kMagnitude = 0x07070707u << kUp;
  const uint32_t even = ((w << 4) & 0x80808080u) | ((w << kUp) & kMagnitude);
  const uint32_t odd = (w & 0x80808080u) | ((w >> (4 - kUp)) & kMagnitude);
  v[0] = __byte_perm(even, 0, 0x2404), v[2] = even & 0xff00ff00u;
  v[1] = __byte_perm(odd, 0, 0x2404), v[3] = odd & 0xff00ff00u;
}

template <Format kWeights, bool kE5M2>
struct MinifloatMath {
  using Acc = float;
  static constexpr bool kNibbles = true;
  static constexpr bool kSignMagnitude = false;
  static constexpr int kActivationBytes = 1;
  static constexpr int kWords = 16;
  // What the bits' new place takes away: the bias of binary16 is 15, of e2m1 1, of e3m0 3.
  static constexpr float kFactor = kWeights == Format::kE2M1 ? 16384.0f : 4096.0f;

  __device__ __forceinline__ static void Arrange(const uint4 (&raw)[2], bool, uint32_t (&b)[kWords]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t v[4] = {raw[h].x, raw[h].y, raw[h].z, raw[h].w};
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        uint32_t* const to = b + 8 * h + 2 * i;
        const uint32_t low = __byte_perm(v[i], v[i + 1], 0x5140), high = __byte_perm(v[i], v[i + 1], 0x7362);
        to[0] = HalvesOf<kE5M2>(low), to[1] = HalvesOf<kE5M2>(low >> 16);
        to[2] = HalvesOf<kE5M2>(high), to[3] = HalvesOf<kE5M2>(high >> 16);
      }
    }
  }
  template <int kTiles>
  __device__ __forceinline__ static void Multiply(const uint4 (&w)[2][1], const uint32_t (&b)[kTiles][kWords],
                                                  float (*acc)[4]) {
    constexpr int kUp = kWeights == Format::kE2M1 ? 1 : 2;
    const uint32_t w0[4] = {w[0][0].x, w[0][0].y, w[0][0].z, w[0][0].w};
    const uint32_t w1[4] = {w[1][0].x, w[1][0].y, w[1][0].z, w[1][0].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t x[4], y[4];
      NibbleHalves<kUp>(w0[i], x);
      NibbleHalves<kUp>(w1[i], y);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        MmaF16(acc[t], x[0], y[0], x[1], y[1], b[t][4 * i], b[t][4 * i + 1]);
        MmaF16(acc[t], x[2], y[2], x[3], y[3], b[t][4 * i + 2], b[t][4 * i + 3]);
      }
    }
  }
};

}  // namespace lowbit::cuda
