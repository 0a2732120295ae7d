// What the Hopper kernels share: the order of tiles, the ring of shared-memory stages, and writing results.
#pragma once
#include <type_traits>

#include "ops/common/cuda/numeric.cuh"
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-gemm/cuda/launch.h"

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

// v. The compiler would rather compute it from the thread's number (S2R) in every step; of what comes out of a shuffle
// it does not know how. Called by whole warps.
__device__ __forceinline__ uint32_t KeepShuffled(uint32_t v) { return __shfl_sync(~0u, v, threadIdx.x % 32); }

// A warp's reports that it is done with a stage, to every block that writes into this one's stages: both of the cluster
// where they share an operand, else this one. In its own block every lane arrives for its own reads: faster than one
// lane behind __syncwarp, and what compute-sanitizer's racecheck follows. To the other block, which only has to know
// when it may send again, one lane reports for all.
class StageReports {
 public:
  // Arrivals at a stage's barrier, of blocks where `warps` read the stage.
  __host__ __device__ static constexpr uint32_t Arrivals(int warps, bool both) { return warps * (both ? 33u : 32u); }

  StageReports() = default;
  // `empty`: the first stage's barrier. `both`: of the cluster's two blocks.
  __device__ __forceinline__ StageReports(uint64_t* empty, bool both, uint32_t rank)
      : empty_(empty), other_(ClusterAddress(empty, rank ^ 1)), reports_(both && threadIdx.x % 32 == 0) {}
  __device__ __forceinline__ void operator()(int stage) const {
    BarrierArrive(empty_ + stage);
    __syncwarp();
    if (reports_) BarrierArriveCluster(other_ + stage * static_cast<int>(sizeof(uint64_t)));
  }

 private:
  uint64_t* empty_;
  uint32_t other_;  // the same in the other block
  bool reports_;    // there
};

// The same to both blocks by one lane each, behind __syncwarp: where accesses to shared memory, which every arrival is,
// bound the kernel.
class WarpReports {
 public:
  __host__ __device__ static constexpr uint32_t Arrivals(int warps, bool) { return 2u * warps; }

  WarpReports() = default;
  __device__ __forceinline__ WarpReports(uint64_t* empty, bool, uint32_t)
      : empty_(KeepShuffled(ClusterAddress(empty, threadIdx.x % 2))), lane_(KeepShuffled(threadIdx.x % 32)) {}
  __device__ __forceinline__ void operator()(int stage) const {
    __syncwarp();
    if (lane_ < 2) BarrierArriveCluster(empty_ + stage * static_cast<int>(sizeof(uint64_t)));
  }

 private:
  uint32_t empty_;  // of the block that this lane reports to
  uint32_t lane_;
};

// f(a value of the graph's type): for kernels that know it at run time only.
template <class F>
__device__ __forceinline__ void WithType(DType type, F&& f) {
  switch (type) {
    case DType::kF32:
      return f(float{});
    case DType::kF16:
      return f(__half{});
    case DType::kBF16:
      return f(__nv_bfloat16{});
  }
}

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

// Writes 16 channels from n0 and 128 tokens from m0 of a warp. 16-bit results go through the warp's 8 x 8
// transpose, so that neighbouring threads write neighbouring channels; 32-bit ones already do.
template <class T>
__device__ __forceinline__ void WriteTile(const GemmArgs& args, int64_t m0, int n0, const float (&result)[64]) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  constexpr DType kType = std::is_same_v<T, float>    ? DType::kF32
                          : std::is_same_v<T, __half> ? DType::kF16
                                                      : DType::kBF16;
  const int64_t row = kType == DType::kF32 ? m0 + 2 * q : m0 + r;  // of this thread's first result
  const int left = static_cast<int>(min(args.m - row, int64_t{128}));
  const int64_t column = n0 + (kType == DType::kF32 ? r : 2 * q);
  const int64_t step = 8 * static_cast<int64_t>(args.n);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (n0 + 8 * h >= args.n) break;  // N is a multiple of 8: all eight channels are inside or none is
    const float bias = args.bias ? Widen(static_cast<const T*>(args.bias)[n0 + 8 * h + r]) : 0.0f;
    T* y = static_cast<T*>(args.y) + row * args.n + column + 8 * h;
    const T* residual = args.residual ? static_cast<const T*>(args.residual) + row * args.n + column + 8 * h : nullptr;
#pragma unroll
    for (int j = 0; j < 16; ++j, y += step) {
      float v0 = result[4 * j + 2 * h] + bias, v1 = result[4 * j + 2 * h + 1] + bias;
      if constexpr (kType == DType::kF32) {
        if (residual) {
          if (8 * j < left) v0 += residual[j * step];
          if (8 * j + 1 < left) v1 += residual[j * step + args.n];
        }
        if (8 * j < left) y[0] = v0;
        if (8 * j + 1 < left) y[args.n] = v1;
      } else {
        const bool inside = 8 * j < left;
        if (residual) {
          const uint32_t pair = inside ? *reinterpret_cast<const uint32_t*>(residual + j * step) : 0;
          const float2 add = UnpackPair(kType, Transpose8x8(pair));
          v0 += add.x, v1 += add.y;
        }
        const uint32_t pair = Transpose8x8(PackPair(kType, v0, v1));
        if (inside) *reinterpret_cast<uint32_t*>(y) = pair;
      }
    }
  }
}

}  // namespace lowbit::cuda
