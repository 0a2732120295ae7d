// The inner products of the batch kernels: steps of 128 channels of 64 output channels by wgmma. Nibbles become wgmma's
// register operand: 16 bytes of a weight row are a thread's share of a step as they lie in memory, and the tokens are
// put into the channel order which that gives (Arrange). Bytes are multiplied where they lie.
//
// A Math has: Acc, kNibbles, kFactor (what a sum is to be multiplied by), and, measured on an H200:
//   kHelpers: warps that order tokens, 2 or 6;  kSideTiles: up to which tiles of tokens two steps go side by side
//   Unpack(w, even, odd): eight nibbles -> the codes of channels 0, 2, 4, 6 and of 1, 3, 5, 7
//   Codes(v): four activation codes as wgmma takes them
//   Multiply(acc, weights, tokens): 32 channels; weights in registers or by descriptor
#pragma once
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-gemm/cuda/decode_math.cuh"
#include "ops/quant-gemm/cuda/nibble_codes.cuh"

namespace lowbit::cuda::batch {

// int8 codes on both sides. Nibbles stand for 16 times their value.
template <bool kNibbleWeights, bool kSignMagnitude>
struct IntegerMath {
  using Acc = int;
  static constexpr bool kNibbles = kNibbleWeights;
  static constexpr int kHelpers = kSignMagnitude ? 6 : 2, kSideTiles = 2;
  static constexpr float kFactor = kNibbles ? 1.0f / 16.0f : 1.0f;

  __device__ __forceinline__ static uint32_t Codes(uint32_t v) { return kSignMagnitude ? TwosComplement(v) : v; }
  __device__ __forceinline__ static void Unpack(uint32_t w, uint32_t& even, uint32_t& odd) {
    even = (w << 4) & 0xf0f0f0f0u, odd = w & 0xf0f0f0f0u;
  }
  template <int kCount, class Weights>
  __device__ __forceinline__ static void Multiply(int (&acc)[kCount], const Weights& a, uint64_t b, int accumulate) {
    WgmmaS8(acc, a, b, accumulate);
  }
};

// Minifloats through the FP8 tensor cores, which keep about 14 bits of a step's sum. A nibble's e4m3 byte is its bits
// in another place.
template <Format kWeights, bool kE5M2>
struct FloatCodeMath {
  using Acc = float;
  static constexpr bool kNibbles = kWeights != Format::kE4M3;
  static constexpr int kHelpers = 2, kSideTiles = 4;
  static constexpr int kUp = kWeights == Format::kE2M1 ? 2 : 3;
  // What the bits' new place takes away: the bias of e4m3 is 7, of e2m1 1, of e3m0 3.
  static constexpr float kFactor = kWeights == Format::kE2M1 ? 64.0f : kWeights == Format::kE3M0 ? 16.0f : 1.0f;

  __device__ __forceinline__ static uint32_t Codes(uint32_t v) { return v; }
  __device__ __forceinline__ static void Unpack(uint32_t w, uint32_t& even, uint32_t& odd) {
    constexpr uint32_t kMagnitude = 0x07070707u << kUp;
    even = ((w << 4) & 0x80808080u) | ((w << kUp) & kMagnitude);
    odd = (w & 0x80808080u) | ((w >> (4 - kUp)) & kMagnitude);
  }
  template <int kCount, class Weights>
  __device__ __forceinline__ static void Multiply(float (&acc)[kCount], const Weights& a, uint64_t b, int accumulate) {
    if constexpr (kE5M2) {
      WgmmaE4M3E5M2(acc, a, b, accumulate);
    } else {
      WgmmaE4M3(acc, a, b, accumulate);
    }
  }
};

}  // namespace lowbit::cuda::batch
