// How the FP8 kernel's results leave: bias, residual, and the copy engine for 16-bit types; sums of a cluster whose
// blocks divided the input channels.
//
// A warp holds 16 channels by kTokens tokens, transposed: element 4j + i of a thread is channel r + 8 * (i / 2), token
// 8j + 2q + i % 2 (r = lane / 4, q = lane % 4). stmatrix turns that into rows of tokens in shared memory, swizzled as
// the copy engine wants them.
#pragma once
#include "ops/quant-gemm/cuda/fp8_tiles.cuh"

namespace lowbit::cuda::fp8 {

// The channel, of a block's, of a thread's first results; its others are in channel + 8.
__device__ __forceinline__ int FirstChannel(int warpgroup) {
  return warpgroup * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
}

// What a thread needs to write its part of a tile; `T` is the graph's type.
template <class T>
class ResultWriter {
 public:
  static constexpr bool kStaged = sizeof(T) == 2;  // 32-bit results go to memory directly: whole sectors already
  static constexpr DType kType = std::is_same_v<T, float>    ? DType::kF32
                                 : std::is_same_v<T, __half> ? DType::kF16
                                                             : DType::kBF16;

  __device__ __forceinline__ ResultWriter(const GemmArgs& args, const Work& work, int warpgroup, uint8_t* staging)
      : args_(args), staging_(SharedAddress(staging)), m0_(work.token) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, r = lane / 4;
    n0_ = work.channel + warpgroup * 64 + warp * 16;
    const int chunk = 2 * warp + (lane / 8 & 1);  // of eight channels
    staging_ += (8 * (lane / 16) + lane % 8) * 128 + ((chunk ^ (lane & 7)) << 4);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int n = n0_ + 8 * h + r;
      bias_[h] = args.bias && n < args.n ? Widen(static_cast<const T*>(args.bias)[n]) : 0.0f;
    }
  }

  // Column blocks j and j + 1 (j even): v[4 * block + i].
  __device__ __forceinline__ void Write(int j, const float (&v)[8]) const {
    float sum[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] = v[i];
    Add(j, sum);
    Store(j, sum);
  }

  // The two halves of Write: many blocks take less time if a branch is around all their additions.
  __device__ __forceinline__ bool adds() const { return args_.bias || args_.residual; }
  __device__ __forceinline__ void Add(int j, float (&v)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += bias_[i / 2 % 2];
    if (!args_.residual) return;
    if constexpr (kStaged) {
      uint32_t add[4];
      LoadMatrix4Transposed(staging_ + j * 1024, add);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 more = UnpackPair(kType, add[i]);
        v[2 * i] += more.x, v[2 * i + 1] += more.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (Inside(j, i)) v[i] += static_cast<const float*>(args_.residual)[Index(j, i)];
      }
    }
  }
  __device__ __forceinline__ void Store(int j, const float (&v)[8]) const {
    if constexpr (kStaged) {
      uint32_t out[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] = PackPair(kType, v[2 * i], v[2 * i + 1]);
      StoreMatrix4Transposed(staging_ + j * 1024, out);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (Inside(j, i)) static_cast<float*>(args_.y)[Index(j, i)] = v[i];
      }
    }
  }

 private:
  // Of element i of column blocks j and j + 1.
  __device__ __forceinline__ int64_t Token(int j, int i) const {
    return m0_ + 8 * (j + i / 4) + 2 * (threadIdx.x % 4) + i % 2;
  }
  __device__ __forceinline__ int Channel(int i) const { return n0_ + 8 * (i / 2 % 2) + threadIdx.x % 32 / 4; }
  __device__ __forceinline__ bool Inside(int j, int i) const { return Token(j, i) < args_.m && Channel(i) < args_.n; }
  __device__ __forceinline__ int64_t Index(int j, int i) const { return Token(j, i) * args_.n + Channel(i); }

  const GemmArgs& args_;
  uint32_t staging_;
  int64_t m0_;
  int n0_;
  float bias_[2];
};

}  // namespace lowbit::cuda::fp8
