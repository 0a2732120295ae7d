// What the Hopper kernels share: the order of tiles, the ring of shared-memory stages, and writing results.
#pragma once
#include "ops/common/cuda/numeric.cuh"
#include "ops/common/cuda/ptx.cuh"

namespace lowbit::cuda {

constexpr int kClusterBlocks = 2;  // blocks that share one operand by multicast
constexpr int kWarpgroup = 128;
constexpr int kBandTiles = 8;

// Tiles in bands of kBandTiles rows, rows fastest inside a band: what runs at one time is a near-square patch, so both
// operands of the patch stay in L2.
struct TileOrder {
  int rows = 0, columns = 0;

  constexpr int count() const { return rows * columns; }
  __device__ __forceinline__ void Locate(int tile, int* row, int* column) const {
    const int band = tile / (kBandTiles * columns);
    const int first = band * kBandTiles;
    const int height = min(kBandTiles, rows - first);
    const int inside = tile - first * columns;
    *row = first + inside % height;
    *column = inside / height;
  }
};

// Position in a ring of stages, and the parity of the pass through it.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Results in type T. Neighbouring values (x at column n, y at n + 1) of one row; n and N are even.
__device__ __forceinline__ float2 LoadPair(DType type, const void* from, int64_t index) {
  if (type == DType::kF32) return *reinterpret_cast<const float2*>(static_cast<const float*>(from) + index);
  if (type == DType::kF16) {
    return __half22float2(*reinterpret_cast<const __half2*>(static_cast<const __half*>(from) + index));
  }
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(from) + index));
}

__device__ __forceinline__ uint32_t PackPair(DType type, float x, float y) {
  if (type == DType::kF16) {
    const __half2 h = __floats2half2_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&h);
  }
  const __nv_bfloat162 h = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const uint32_t*>(&h);
}

__device__ __forceinline__ float2 UnpackPair(DType type, uint32_t v) {
  if (type == DType::kF16) return __half22float2(*reinterpret_cast<const __half2*>(&v));
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&v));
}

__device__ __forceinline__ float LoadOne(DType type, const void* from, int64_t index) {
  if (type == DType::kF32) return static_cast<const float*>(from)[index];
  if (type == DType::kF16) return Widen(static_cast<const __half*>(from)[index]);
  return Widen(static_cast<const __nv_bfloat16*>(from)[index]);
}

__device__ __forceinline__ void StoreOne(DType type, void* to, int64_t index, float v) {
  if (type == DType::kF32) {
    static_cast<float*>(to)[index] = v;
  } else if (type == DType::kF16) {
    static_cast<__half*>(to)[index] = Narrow<__half>(v);
  } else {
    static_cast<__nv_bfloat16*>(to)[index] = Narrow<__nv_bfloat16>(v);
  }
}

}  // namespace lowbit::cuda
