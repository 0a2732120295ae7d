// The end of the decode kernel: the parts of all warps and blocks that share a head become y.
#pragma once
#include "ops/quant-kv-attention/cuda/decode_softmax.cuh"

namespace lowbit::cuda {

// Each warp's sums and {top, total}, in the shared memory where its ring was.
struct DecodeShared {
  float* base;
  int stride;  // floats of a warp's ring
  int rows, dim;

  __device__ __forceinline__ float* Sums(int warp, int row) const { return base + warp * stride + row * dim; }
  __device__ __forceinline__ float* Meta(int warp, int row) const { return Sums(warp, rows) + 2 * row; }
};

template <int kBits, class Layout>
__device__ __forceinline__ void StoreState(const DecodeState<Layout>& state, const DecodeShared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float total = state.total[i], minima = state.minima[i];
#pragma unroll
    for (int d = 4; d < 32; d *= 2) {
      total += __shfl_xor_sync(~0u, total, d);
      minima += __shfl_xor_sync(~0u, minima, d);
    }
    const int row = 2 * t + i;
    if (row >= shared.rows) continue;
    const float unit = __fdividef(0x1p24f, state.value_factor);  // a power of two
    float* sums = shared.Sums(warp, row);
#pragma unroll
    for (int tile = 0; tile < Layout::kTiles; ++tile) {
      const int c0 = Layout::ValueChannel(g, 2 * tile / Layout::kUnitCodes, 2 * tile % Layout::kUnitCodes);
      if (c0 >= shared.dim) continue;
      sums[c0] = fmaf(state.sums[tile][i], unit, minima);
      sums[c0 + 1] = fmaf(state.sums[tile][2 + i], kBits == 4 ? unit * 0.0625f : unit, minima);
    }
    if (g == 0) shared.Meta(warp, row)[0] = state.top[i], shared.Meta(warp, row)[1] = total;
  }
}

// Weighted sums of several parts: {channel c, total} against the highest `top`.
struct Merged {
  float top = kNoScore, sum = 0.0f, total = 0.0f;

  __device__ __forceinline__ void Add(float part_top, float part_sum, float part_total) {
    const float high = fmaxf(top, part_top), own = Exp2(top - high), other = Exp2(part_top - high);
    top = high;
    sum = sum * own + part_sum * other;
    total = total * own + part_total * other;
  }
};

// The part at `rank` of the cluster, or this block's own.
__device__ __forceinline__ const float* PartOf(const float* p, int rank, int split) {
#if __CUDA_ARCH__ >= 900
  if (split > 1) return RemoteShared(p, static_cast<uint32_t>(rank));
#endif
  return p;
}

// For each head, adds the parts of the block's warps into those of the first that has it, then the cluster's blocks,
// and writes y.
template <int kDim>
__device__ __forceinline__ void Merge(const DecodePlan& plan, const DecodeShared& shared, const KvSequence& sequence,
                                      int b, int first_head, int first_row, int rank) {
  const KvArgs& args = plan.args;
  const int threads = plan.warps * 32, rows = plan.head_warps * shared.rows;  // of all heads
  if (plan.warps > plan.head_warps) {
    for (int i = threadIdx.x; i < rows * kDim; i += threads) {
      const int head = i / kDim / shared.rows, row = i / kDim - head * shared.rows, c = i % kDim;
      Merged m;
      for (int w = head; w < plan.warps; w += plan.head_warps) {
        m.Add(shared.Meta(w, row)[0], shared.Sums(w, row)[c], shared.Meta(w, row)[1]);
      }
      shared.Sums(head, row)[c] = m.sum;
    }
    __syncthreads();
    if (threadIdx.x < rows) {
      const int head = threadIdx.x / shared.rows, row = threadIdx.x - head * shared.rows;
      Merged m;
      for (int w = head; w < plan.warps; w += plan.head_warps) {
        m.Add(shared.Meta(w, row)[0], 0.0f, shared.Meta(w, row)[1]);
      }
      shared.Meta(head, row)[0] = m.top, shared.Meta(head, row)[1] = m.total;
    }
  }
#if __CUDA_ARCH__ >= 900
  if (plan.split > 1) ClusterSync();
#endif
  if (plan.split == 1) __syncthreads();
  const int group = args.group();
  for (int i = rank * threads + threadIdx.x; i < rows * kDim; i += plan.split * threads) {
    const int head = i / kDim / shared.rows, row = i / kDim - head * shared.rows, c = i % kDim;
    Merged m;
#pragma unroll
    for (int r = 0; r < kMaxSplit; ++r) {
      if (r >= plan.split) break;
      const float* meta = PartOf(shared.Meta(head, row), r, plan.split);
      m.Add(meta[0], PartOf(shared.Sums(head, row), r, plan.split)[c], meta[1]);
    }
    const int query = first_row + row, s = plan.Token(query), q_head = (first_head + head) * group + query - s * group;
    float y = m.total == 0.0f ? 0.0f : __fdividef(m.sum, m.total);
    if (sequence.start + s >= sequence.length) y = 0.0f;
    if (!sequence.valid) y = __int_as_float(0x7fc00000);
    const int64_t token = static_cast<int64_t>(b) * args.tokens + s;
    static_cast<__half*>(args.y)[(token * args.heads + q_head) * kDim + c] = __float2half_rn(y);
  }
#if __CUDA_ARCH__ >= 900
  if (plan.split > 1) ClusterSync();  // others may still read this block's part
#endif
}

}  // namespace lowbit::cuda
