// The end of the decode kernel: the parts of all warps and blocks that share a head become y.
#pragma once
#include "ops/quant-kv-attention/cuda/decode_softmax.cuh"

namespace lowbit::cuda {

// Each warp's sums and {top, total}, in the shared memory where its ring was. There is room for as many query rows as
// mma has columns.
struct DecodeShared {
  float* base;
  int stride;  // floats of a warp's ring
  SmallDivisor rows;
  int dim;

  // Columns that a warp stores at once start in different banks.
  static constexpr int kPad = 4;
  static constexpr int Bytes(int dim) { return kDecodeRows * (dim + kPad + 2) * 4; }

  __device__ __forceinline__ float* Sums(int warp, int column) const {
    return base + warp * stride + column * (dim + kPad);
  }
  __device__ __forceinline__ float2* Meta(int warp, int column) const {
    return reinterpret_cast<float2*>(Sums(warp, kDecodeRows)) + column;
  }
  // A word behind the sums of all warps.
  __device__ __forceinline__ uint32_t* Flag(int warps) const {
    return reinterpret_cast<uint32_t*>(base + warps * stride);
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
    if (column % (kDecodeRows / kHeads) >= shared.rows.divisor) continue;
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

  // Parts [0, count) in order, kAtOnce of them under way together.
  template <int kAtOnce, class Meta, class Sums>
  __device__ __forceinline__ void AddAll(int count, const Meta& meta, const Sums& sums) {
    for (int first = 0; first < count; first += kAtOnce) {
      float2 part[kAtOnce];
      float4 each[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const bool there = first + i < count;
        part[i] = there ? meta(first + i) : make_float2(kNoScore, 0.0f);
        each[i] = there ? sums(first + i) : float4{};
      }
      float high = top;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) high = fmaxf(high, part[i].x);
      Scale(Exp2(top - high));
      top = high;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float factor = Exp2(part[i].x - high);
        total = fmaf(part[i].y, factor, total);
        sum.x = fmaf(each[i].x, factor, sum.x);
        sum.y = fmaf(each[i].y, factor, sum.y);
        sum.z = fmaf(each[i].z, factor, sum.z);
        sum.w = fmaf(each[i].w, factor, sum.w);
      }
    }
  }

 private:
  __device__ __forceinline__ void Scale(float factor) {
    total *= factor, sum.x *= factor, sum.y *= factor, sum.z *= factor, sum.w *= factor;
  }
};

// What the blocks of a group, which share heads and divide keys, leave in global memory for the one that comes last.
// Items are four channels of a query row.
template <int kDim>
struct DecodeParts {
  static constexpr int kFours = kDim / 4;

  int rank, split, items;
  float4* sums;  // [split][items] of the group
  float2* meta;  // {top, total}, [split][items / kFours]
  uint32_t* arrivals;

  __device__ __forceinline__ DecodeParts(const DecodePlan& plan, int count)
      : rank(blockIdx.x), split(plan.split), items(count) {
    const int64_t groups = static_cast<int64_t>(gridDim.y) * gridDim.z, group = blockIdx.z * gridDim.y + blockIdx.y;
    const DecodeScratch layout(groups, split, plan.most_items, kDim);
    uint8_t* scratch = static_cast<uint8_t*>(plan.args.scratch);
    arrivals = reinterpret_cast<uint32_t*>(scratch) + group;
    meta = reinterpret_cast<float2*>(scratch + layout.meta) + group * split * (plan.most_items / kFours);
    sums = reinterpret_cast<float4*>(scratch + layout.sums) + group * split * plan.most_items;
  }

  __device__ __forceinline__ void Store(int item, const Merged& m) const {
    __stcg(sums + rank * items + item, m.sum);
    if (item % kFours == 0) __stcg(meta + rank * (items / kFours) + item / kFours, make_float2(m.top, m.total));
  }
  // After Store of every item: whether this block came last, which then sees what all have stored.
  __device__ __forceinline__ bool IsLast(uint32_t* shared) const {
    __syncthreads();
    if (threadIdx.x == 0) *shared = ArriveInc(arrivals, static_cast<uint32_t>(split - 1));
    __syncthreads();
    return *shared == static_cast<uint32_t>(split - 1);
  }
  __device__ __forceinline__ Merged Collect(int item) const {
    Merged m;
    m.AddAll<8>(
        split, [&](int part) { return __ldcg(meta + part * (items / kFours) + item / kFours); },
        [&](int part) { return __ldcg(sums + part * items + item); });
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
      make_uint2(NarrowPair(y.x, y.y, IsBrain(args)), NarrowPair(y.z, y.w, IsBrain(args)));
}

// For each head, adds the parts of the block's warps, then those of the group's blocks, and writes y.
template <int kDim, int kSharing, int kHeads>
__device__ __forceinline__ void Merge(const DecodePlan& plan, const DecodeShared& shared, const KvSequence& sequence,
                                      int b, int first_head, int first_row) {
  constexpr int kFours = kDim / 4;
  const int items = kSharing * kHeads * shared.rows.divisor * kFours;
  const auto store = [&](int i, const Merged& m) {
    const int at = i / kFours, head = shared.rows.Of(at), row = at - head * shared.rows.divisor;
    StoreOutput<kDim>(plan, sequence, b, first_head + head, first_row + row, i % kFours * 4, m);
  };
  const DecodeParts<kDim> parts(plan, items);
  for (int i = threadIdx.x; i < items; i += blockDim.x) {
    const int at = i / kFours, head = shared.rows.Of(at), row = at - head * shared.rows.divisor, c = i % kFours * 4;
    const int warp = head / kHeads, column = head % kHeads * (kDecodeRows / kHeads) + row;
    const auto of = [&](int part) { return warp + part * kSharing; };
    Merged m;
    m.AddAll<4>(
        plan.warps / kSharing, [&](int part) { return *shared.Meta(of(part), column); },
        [&](int part) { return *reinterpret_cast<const float4*>(shared.Sums(of(part), column) + c); });
    if (plan.split == 1) {
      store(i, m);
    } else {
      parts.Store(i, m);
    }
  }
  if (plan.split == 1 || !parts.IsLast(shared.Flag(plan.warps))) return;
  for (int i = threadIdx.x; i < items; i += blockDim.x) store(i, parts.Collect(i));
}

}  // namespace lowbit::cuda
