// The end of the decode kernel: the parts of all warps and blocks that share a head become y.
#pragma once
#include "ops/quant-kv-attention/cuda/decode_softmax.cuh"

namespace lowbit::cuda {

// Each warp's sums and {top, total}, in the shared memory where its ring was. There is room for as many query rows as
// mma has columns.
struct DecodeShared {
  float* base;
  int stride;  // floats of a warp's ring
  int rows, dim;

  __device__ __forceinline__ float* Sums(int warp, int column) const { return base + warp * stride + column * dim; }
  __device__ __forceinline__ float2* Meta(int warp, int column) const {
    return reinterpret_cast<float2*>(Sums(warp, kDecodeRows)) + column;
  }
};

template <int kBits, int kHeads, class Layout>
__device__ __forceinline__ void StoreState(const DecodeState<Layout, kHeads>& state, const DecodeShared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float total = state.total[i], minima = state.minima[i];
#pragma unroll
    for (int d = 4; d < 32; d *= 2) {
      total += __shfl_xor_sync(~0u, total, d);
      minima += __shfl_xor_sync(~0u, minima, d);
    }
    const int column = 2 * t + i;
    if (column % (kDecodeRows / kHeads) >= shared.rows) continue;
    const float unit = __fdividef(0x1p24f, state.value_factor);  // a power of two
    float* sums = shared.Sums(warp, column);
    const float second = kBits == 4 ? unit * 0.0625f : unit;
    constexpr int kPairs = Layout::kUnitCodes / 2;
#pragma unroll
    for (int at = 0; at < Layout::kUnits; ++at) {
      const int c = Layout::ValueChannel(g, at, 0);
      if (c >= shared.dim) continue;
      float v[2 * kPairs];
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        v[2 * pair] = fmaf(state.sums[at * kPairs + pair][i], unit, minima);
        v[2 * pair + 1] = fmaf(state.sums[at * kPairs + pair][2 + i], second, minima);
      }
      if constexpr (kPairs == 2) {
        *reinterpret_cast<float4*>(sums + c) = make_float4(v[0], v[1], v[2], v[3]);
      } else {
        *reinterpret_cast<float2*>(sums + c) = make_float2(v[0], v[1]);
      }
    }
    if (g == 0) *shared.Meta(warp, column) = make_float2(state.top[i], total);
  }
}

// Weighted sums of several parts, four channels and the total, against the highest `top`.
struct Merged {
  float top = kNoScore, total = 0.0f;
  float4 sum{};

  __device__ __forceinline__ void Add(float2 part, float4 sums) {
    const float high = fmaxf(top, part.x), own = Exp2(top - high), other = Exp2(part.x - high);
    top = high;
    total = total * own + part.y * other;
    sum.x = sum.x * own + sums.x * other;
    sum.y = sum.y * own + sums.y * other;
    sum.z = sum.z * own + sums.z * other;
    sum.w = sum.w * own + sums.w * other;
  }
};

// Where the blocks of a cluster send what they have of a head's keys. Each block owns some of the items, which are four
// channels of a query row, and gets every block's part of them; nobody waits for a block to have read anything.
struct DecodeExchange {
  int rank = 0, split = 1, count = 0, each = 0;  // items in all, and of a block
  uint8_t* parts = nullptr;                      // [split][each] sums, then {top, total}
  uint64_t* arrived = nullptr;

  static constexpr int kItemBytes = 24;
  __host__ __device__ static constexpr int Each(int count, int split) { return (count + split - 1) / split; }
  __host__ __device__ static constexpr int Bytes(int count, int split) {
    return split > 1 ? (Each(count, split) * split * kItemBytes + 15) / 16 * 16 + 16 : 0;
  }

  __device__ __forceinline__ void Start(const DecodePlan& plan, int items, uint8_t* memory) {
    split = plan.split, count = items;
#if __CUDA_ARCH__ >= 900
    if (split == 1) return;
    rank = blockIdx.x, each = Each(count, split), parts = memory;
    arrived = reinterpret_cast<uint64_t*>(memory + Bytes(count, split) - 16);
    if (threadIdx.x == 0) {
      BarrierInit(arrived, 1);
      BarrierArriveExpect(arrived, (split - 1) * max(0, min(each, count - rank * each)) * kItemBytes);
      BarrierInitFence();
    }
    ClusterArriveRelaxed();
#endif
  }

  __device__ __forceinline__ float4* Sums(int block, int i) const {
    return reinterpret_cast<float4*>(parts) + block * each + i;
  }
  __device__ __forceinline__ float2* Meta(int block, int i) const {
    return reinterpret_cast<float2*>(parts + split * each * 16) + block * each + i;
  }
  __device__ __forceinline__ bool Owns(int item) const { return item / each == rank; }

  __device__ __forceinline__ void Send(int item, const Merged& m) const {
#if __CUDA_ARCH__ >= 900
    const int owner = item / each, i = item - owner * each;
    if (owner == rank) {
      *Sums(rank, i) = m.sum;
      *Meta(rank, i) = make_float2(m.top, m.total);
    } else {
      const uint32_t barrier = ClusterAddress(arrived, owner);
      const uint32_t sums[4] = {__float_as_uint(m.sum.x), __float_as_uint(m.sum.y), __float_as_uint(m.sum.z),
                                __float_as_uint(m.sum.w)};
      const uint32_t meta[2] = {__float_as_uint(m.top), __float_as_uint(m.total)};
      StoreRemoteAsync(ClusterAddress(Sums(rank, i), owner), barrier, sums);
      StoreRemoteAsync(ClusterAddress(Meta(rank, i), owner), barrier, meta);
    }
#endif
  }
  // All parts of an item that this block owns; the thread that sent its own part may ask.
  __device__ __forceinline__ Merged Collect(int item) const {
    Merged m;
    for (int r = 0; r < split; ++r) m.Add(*Meta(r, item - rank * each), *Sums(r, item - rank * each));
    return m;
  }
};

// Four channels of a query row into y.
template <int kDim>
__device__ __forceinline__ void StoreOutput(const DecodePlan& plan, const KvSequence& sequence, int b, int head,
                                            int query, int c, const Merged& m) {
  const KvArgs& args = plan.args;
  const int s = plan.Token(query), group = args.group();
  const float nan = __int_as_float(0x7fc00000);
  float4 y = m.sum;
  const float inverse = m.total == 0.0f || sequence.start + s >= sequence.length ? 0.0f : __fdividef(1.0f, m.total);
  if (inverse == 0.0f) y = float4{};
  y = make_float4(y.x * inverse, y.y * inverse, y.z * inverse, y.w * inverse);
  if (!sequence.valid) y = make_float4(nan, nan, nan, nan);
  const int64_t row = (static_cast<int64_t>(b) * args.tokens + s) * args.heads + head * group + query - s * group;
  *reinterpret_cast<uint2*>(static_cast<__half*>(args.y) + row * kDim + c) =
      make_uint2(Bits(__floats2half2_rn(y.x, y.y)), Bits(__floats2half2_rn(y.z, y.w)));
}

// For each head, adds the parts of the block's warps, then those of the cluster's blocks, and writes y.
template <int kDim, int kHeads>
__device__ __forceinline__ void Merge(const DecodePlan& plan, const DecodeShared& shared,
                                      const DecodeExchange& exchange, const KvSequence& sequence, int b, int first_head,
                                      int first_row) {
  constexpr int kFours = kDim / 4;
  const auto store = [&](int i, const Merged& m) {
    const int at = i / kFours, head = at / shared.rows, row = at - head * shared.rows;
    StoreOutput<kDim>(plan, sequence, b, first_head + head, first_row + row, i % kFours * 4, m);
  };
#if __CUDA_ARCH__ >= 900
  if (plan.split > 1) ClusterWait();  // the others' barriers are there
#endif
  for (int i = threadIdx.x; i < exchange.count; i += blockDim.x) {
    const int at = i / kFours, head = at / shared.rows, row = at - head * shared.rows, c = i % kFours * 4;
    const int warp = head / kHeads, column = head % kHeads * (kDecodeRows / kHeads) + row;
    Merged m;
    for (int w = warp; w < plan.warps; w += plan.head_warps) {
      m.Add(*shared.Meta(w, column), *reinterpret_cast<const float4*>(shared.Sums(w, column) + c));
    }
    if (plan.split == 1) {
      store(i, m);
    } else {
      exchange.Send(i, m);
    }
  }
#if __CUDA_ARCH__ >= 900
  if (plan.split == 1) return;
  BarrierWaitCluster(exchange.arrived, 0);
  for (int i = threadIdx.x; i < exchange.count; i += blockDim.x) {
    if (exchange.Owns(i)) store(i, exchange.Collect(i));
  }
#endif
}

}  // namespace lowbit::cuda
