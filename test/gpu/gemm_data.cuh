// Repeatable inputs of QuantGemm, made on the device, and its outputs as floats.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "ops/common/cuda/types.h"

namespace lowbit::test::gemm {

using cuda::DType;
using cuda::Format;

__device__ inline uint32_t Hash(uint64_t seed, uint64_t i) {
  uint64_t z = seed * 0x9e3779b97f4a7c15ull + i * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(z >> 32);
}

// Rows of k codes, finite ones; those from `body` on are s8. Weights in nibbles are filled as s8: any pattern is a
// code.
static __global__ void FillCodes(uint8_t* p, size_t n, uint64_t seed, Format format, int k, int body) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += gridDim.x * static_cast<size_t>(blockDim.x)) {
    const uint32_t h = Hash(seed, i);
    const int q = static_cast<int>(h % 16) - 8;
    uint8_t code = static_cast<uint8_t>(h >> 8);
    if (static_cast<int>(i % k) < body) {
      if (format == Format::kS4) code = static_cast<uint8_t>(q);
      if (format == Format::kS4E4M3) code = static_cast<uint8_t>(q < 0 ? 0x80 - q : q);
      if (format == Format::kE4M3 && (code & 0x7f) == 0x7f) code ^= 1;
      if (format == Format::kE5M2) code &= 0xbf;  // below 2: the results fit binary16
    }
    p[i] = code;
  }
}

template <class T>
__global__ void FillFloats(T* p, size_t n, uint64_t seed, float low, float high) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += gridDim.x * static_cast<size_t>(blockDim.x)) {
    p[i] = static_cast<T>(low + (high - low) * (Hash(seed, i) * 0x1p-32f));
  }
}

// Scales of rows of `groups`: one of the row's times 2^0 ... 2^-13, one group with 2^0. M1: powers of two.
static __global__ void FillPowers(__half* p, size_t n, uint64_t seed, int groups, bool m1) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += gridDim.x * static_cast<size_t>(blockDim.x)) {
    const size_t row = i / groups;
    const float base = m1 ? 1.0f : 1.0f + Hash(seed, row) * 0x1p-33f;
    const uint32_t k = i % groups == row % groups ? 0 : Hash(seed + 1, i) % 14;
    p[i] = __float2half(ldexpf(__half2float(__float2half(base)), -static_cast<int>(k)));
  }
}

inline void FillTyped(DType type, void* p, size_t n, uint64_t seed, float low, float high) {
  if (type == DType::kF32) FillFloats<<<256, 256>>>(static_cast<float*>(p), n, seed, low, high);
  if (type == DType::kF16) FillFloats<<<256, 256>>>(static_cast<__half*>(p), n, seed, low, high);
  if (type == DType::kBF16) FillFloats<<<256, 256>>>(static_cast<__nv_bfloat16*>(p), n, seed, low, high);
}

// Element i of values of `type` at p.
inline float Typed(DType type, const uint8_t* p, size_t i) {
  if (type == DType::kF32) {
    float f;
    std::memcpy(&f, p + i * 4, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, p + i * 2, 2);
  if (type == DType::kF16) {
    __half h;
    std::memcpy(&h, &bits, 2);
    return __half2float(h);
  }
  __nv_bfloat16 h;
  std::memcpy(&h, &bits, 2);
  return __bfloat162float(h);
}

}  // namespace lowbit::test::gemm
