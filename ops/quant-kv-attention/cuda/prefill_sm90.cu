// Attention of many queries on Hopper's tensor cores. A block has 128 query rows (the heads of a group side by side)
// of one kv head. One warpgroup dequantizes keys and one values, tile by tile, into rings in shared memory; two
// multiply 64 rows each with them, keeping a running softmax in registers.
#include <algorithm>
#include <type_traits>

#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-kv-attention/cuda/prefill_keys.cuh"
#include "ops/quant-kv-attention/cuda/tile_descriptors.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kRows = 128;     // query rows of a block
constexpr int kThreads = 512;  // warpgroups: keys, values, two that multiply
constexpr int kSlots = 2;      // tiles of a ring
constexpr int kMultiplyingWarps = 8;

template <int kDim>
struct Shape {
  static constexpr int kKeys = kDim <= 128 ? 128 : 64;  // of a tile
  static constexpr int kTileBytes = kKeys * kDim * 2;
  static constexpr int kQueryBytes = kRows * kDim * 2;
  static constexpr int kSharedBytes =
      kQueryBytes + 2 * kSlots * (kTileBytes + 2 * 8) + TileFiller<4, kDim, kKeys, true, Filling::kAny>::kStageBytes;
  // Columns of one product of weights and values.
  static constexpr int kPanel = kDim % 128 == 0 ? 128 : kDim % 64 == 0 ? 64 : kDim % 32 == 0 ? 32 : 16;
  static constexpr int kPanels = kDim / kPanel;
};

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ uint32_t Pack(float a, float b) {
  const __half2 v = __floats2half2_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&v);
}

// A place in a ring of tiles.
struct Ring {
  int slot = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void Next() {
    if (++slot == kSlots) slot = 0, phase ^= 1;
  }
};

// What the two rows of a thread see, and where their masks are.
struct Rows {
  int begin[2], end[2];
  const __half* mask[2];
};

// Scores as they come from the product to those of the softmax: logarithms to base 2, -infinity for keys not seen.
template <int kScores>
__device__ __forceinline__ void Finish(const KvArgs& args, const Rows& rows, int first, bool inside,
                                       float (&score)[kScores]) {
  constexpr float kLog2e = 1.44269504f;
  if (inside && args.softcap <= 0.0f && !args.mask) return;
  const int column = first + threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    const int r = i / 2 % 2, j = column + i / 4 * 8 + i % 2;
    float x = score[i];
    if (args.softcap > 0.0f) {
      const float cap = args.softcap * kLog2e;
      x = cap * tanhf(x / cap);
    }
    const bool seen = j >= rows.begin[r] && j < rows.end[r];
    if (args.mask && seen) x += WidenAt(rows.mask[r], j, IsBrain(args)) * kLog2e;
    score[i] = seen ? x : -__int_as_float(0x7f800000);
  }
}

template <int kBits, int kDim, bool kIsKey, Filling kFilling>
__device__ __forceinline__ void Produce(const KvArgs& args, int64_t head_row, int begin, int end, uint8_t* tiles,
                                        const uint8_t* stage, uint64_t* full, uint64_t* empty) {
  constexpr int kKeys = Shape<kDim>::kKeys;
  if (begin >= end) return;
  TileFiller<kBits, kDim, kKeys, kIsKey, kFilling> filler(args, head_row, begin, end, stage);
  Ring at;
  for (int key = begin; key < end; key += kKeys) {
    BarrierWait(empty + at.slot, at.phase ^ 1);  // the ring starts empty
    filler.Fill(key, tiles + at.slot * Shape<kDim>::kTileBytes);
    FenceAsyncProxy();
    BarrierArrive(full + at.slot);
    at.Next();
  }
}

template <int kBits, int kDim>
__global__ __launch_bounds__(kThreads, 1) void PrefillKernel(const __grid_constant__ KvArgs args) {
  using S = Shape<kDim>;
  constexpr int kKeys = S::kKeys, kPanel = S::kPanel;
  extern __shared__ __align__(128) uint8_t memory[];
  uint8_t *queries = memory, *key_tiles = memory + S::kQueryBytes;
  uint8_t* value_tiles = key_tiles + kSlots * S::kTileBytes;
  uint8_t* stage = value_tiles + kSlots * S::kTileBytes;
  uint64_t* key_full =
      reinterpret_cast<uint64_t*>(stage + TileFiller<kBits, kDim, kKeys, true, Filling::kAny>::kStageBytes);
  uint64_t *key_empty = key_full + kSlots, *value_full = key_empty + kSlots, *value_empty = value_full + kSlots;
  const int b = blockIdx.z, kv_head = blockIdx.y, group = args.group();
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;  // late rows see most keys: they go first
  const KvSequence sequence(args, b);
  const int64_t head_row = (static_cast<int64_t>(b) * args.kv_heads + kv_head) * args.present_k.rows;

  const int queries_there = sequence.length - sequence.start;
  const int last_row = min(first_row + kRows, args.query_rows()) - 1;
  const KvSpan first_span(args, sequence, first_row / group);
  const KvSpan last_span(args, sequence, max(0, min(last_row / group, queries_there - 1)));
  const int begin = first_span.begin / kKeys * kKeys, end = queries_there > first_row / group ? last_span.end : 0;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; ++i) {
      BarrierInit(key_full + i, args.scratch ? 1 : 128);
      BarrierInit(value_full + i, 128);
      BarrierInit(key_empty + i, kMultiplyingWarps);
      BarrierInit(value_empty + i, kMultiplyingWarps);
    }
    BarrierInitFence();
  }
  __syncthreads();

  const int warpgroup = threadIdx.x / 128;
  if (warpgroup == 0) {
    GiveRegisters<88>();
    const auto produce = [&](auto filling) {
      Produce<kBits, kDim, true, decltype(filling)::value>(args, head_row, begin, end, key_tiles, stage, key_full,
                                                           key_empty);
    };
    if (args.scratch) {
      if (threadIdx.x == 0) {
        const int tiles = (args.limit + kKeys - 1) / kKeys;
        const uint8_t* from = static_cast<const uint8_t*>(args.scratch) +
                              (static_cast<int64_t>(b) * args.kv_heads + kv_head) * tiles * S::kTileBytes;
        Ring at;
        for (int key = begin; key < end; key += kKeys) {
          BarrierWait(key_empty + at.slot, at.phase ^ 1);
          BarrierArriveExpect(key_full + at.slot, S::kTileBytes);
          BulkLoad(key_full + at.slot, key_tiles + at.slot * S::kTileBytes,
                   from + static_cast<int64_t>(key / kKeys) * S::kTileBytes, S::kTileBytes);
          at.Next();
        }
      }
    } else if (!args.rotate_on_read) {
      produce(std::integral_constant<Filling, Filling::kPlain>{});
    } else if (args.rotary == KvRotary::kHalf && 2 * args.pairs == kDim && !IsBrain(args)) {
      produce(std::integral_constant<Filling, Filling::kHalves>{});
    } else {
      produce(std::integral_constant<Filling, Filling::kAny>{});
    }
  } else if (warpgroup == 1) {
    GiveRegisters<40>();
    Produce<kBits, kDim, false, Filling::kPlain>(args, head_row, begin, end, value_tiles, stage, value_full,
                                                 value_empty);
  } else {
    TakeRegisters<192>();
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const int to_row = (warpgroup - 2) * 64, group_row = first_row + to_row;
    const float factor = args.scale * 1.44269504f * (args.rotate_on_read ? 2.0f : 1.0f);  // turned keys come halved
    FillQueries<kDim>(args, sequence, b, kv_head, group_row, factor, queries, kRows, to_row);
    FenceAsyncProxy();
    asm volatile("bar.sync %0, 128;" ::"r"(warpgroup) : "memory");

    Rows rows;
    int row[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row[r] = group_row + warp * 16 + lane / 4 + 8 * r;
      const int s = min(row[r], args.query_rows() - 1) / group;
      const KvSpan span(args, sequence, s);
      rows.begin[r] = span.begin;
      rows.end[r] = row[r] < args.query_rows() ? span.end : 0;
      rows.mask[r] = static_cast<const __half*>(args.mask);
      if (args.mask) {
        rows.mask[r] += b * args.mask_batch_stride + (kv_head * group + row[r] % group) * args.mask_head_stride +
                        s * args.mask_row_stride;
      }
    }
    // Every row of this warpgroup that is there sees keys [inside_begin, inside_end).
    const KvSpan group_first(args, sequence, min(group_row, args.query_rows() - 1) / group);
    const int group_last = min(group_row + 63, args.query_rows() - 1) / group;
    const KvSpan group_last_span(args, sequence, max(0, min(group_last, queries_there - 1)));
    const int inside_begin = group_last_span.begin, inside_end = group_first.end;

    float sums[S::kPanels][kPanel / 2];
#pragma unroll
    for (int p = 0; p < S::kPanels; ++p) {
#pragma unroll
      for (int i = 0; i < kPanel / 2; ++i) sums[p][i] = 0.0f;
    }
    float score[kKeys / 2], top[2] = {-1e30f, -1e30f}, total[2] = {}, fade[2];
    uint32_t weights[kKeys / 16][4];
    Ring keys_at, values_at;
    const auto release = [&](uint64_t* empty, Ring& at) {
      if (lane == 0) BarrierArrive(empty + at.slot);
      at.Next();
    };
    const uint64_t query_tile = ChannelsDescriptor(queries + to_row * 16, kRows);
    const auto multiply_keys = [&] {
      BarrierWait(key_full + keys_at.slot, keys_at.phase);
      const uint64_t keys = ChannelsDescriptor(key_tiles + keys_at.slot * S::kTileBytes, kKeys);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) {
        WgmmaF16(score, query_tile + step * 2 * kRows, keys + step * 2 * kKeys, step > 0);
      }
      WgmmaCommit();
    };
    const auto multiply_values = [&] {
      BarrierWait(value_full + values_at.slot, values_at.phase);
      const uint64_t values = RowsDescriptor(value_tiles + values_at.slot * S::kTileBytes, kKeys);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kKeys / 16; ++step) {
#pragma unroll
        for (int p = 0; p < S::kPanels; ++p) {
          WgmmaF16Rows(sums[p], weights[step], values + p * (kPanel / 8) * kKeys + step * 16, 1);
        }
      }
      WgmmaCommit();
    };
    // Scores become weights against the new maxima; `fade` is what earlier sums are worth then.
    const auto soften = [&](int key) {
      Finish(args, rows, key, key >= inside_begin && key + kKeys <= inside_end, score);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float high = top[r];
#pragma unroll
        for (int i = 0; i < kKeys / 2; i += 4) high = fmaxf(high, fmaxf(score[i + 2 * r], score[i + 2 * r + 1]));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
        fade[r] = Exp2(top[r] - high);
        top[r] = high;
        total[r] *= fade[r];
#pragma unroll
        for (int i = 0; i < kKeys / 2; i += 4) {
          score[i + 2 * r] = Exp2(score[i + 2 * r] - high);
          score[i + 2 * r + 1] = Exp2(score[i + 2 * r + 1] - high);
          total[r] += score[i + 2 * r] + score[i + 2 * r + 1];
        }
      }
    };
    const auto pack_weights = [&] {
#pragma unroll
      for (int i = 0; i < kKeys / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) weights[i][j] = Pack(score[8 * i + 2 * j], score[8 * i + 2 * j + 1]);
      }
    };
    // Named barriers 4 and 5 stand for the turns of the two.
    const auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(2 + warpgroup) : "memory"); };
    const auto pass_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(7 - warpgroup) : "memory"); };
    if (begin < end) {
      if (warpgroup == 3) pass_turn();
      multiply_keys();
      WgmmaWait<0>();
      release(key_empty, keys_at);
      soften(begin);
      pack_weights();
      // The softmax of a tile runs beside the products of the other warpgroup: they take turns at the tensor cores.
      for (int key = begin + kKeys; key < end; key += kKeys) {
        take_turn();
        multiply_keys();
        multiply_values();
        pass_turn();
        WgmmaWait<1>();
        release(key_empty, keys_at);
        soften(key);
        WgmmaWait<0>();
        release(value_empty, values_at);
#pragma unroll
        for (int p = 0; p < S::kPanels; ++p) {
#pragma unroll
          for (int i = 0; i < kPanel / 2; ++i) sums[p][i] *= fade[i / 2 % 2];
        }
        pack_weights();
      }
      multiply_values();
      if (warpgroup == 2) take_turn();  // the other's last pass
      WgmmaWait<0>();
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] += __shfl_xor_sync(~0u, total[r], 1);
      total[r] += __shfl_xor_sync(~0u, total[r], 2);
      if (row[r] >= args.query_rows()) continue;
      const int s = row[r] / group, head = kv_head * group + row[r] % group;
      // Queries behind their sequence give 0, also where an inside tile gave them scores.
      const bool there = sequence.start + s < sequence.length;
      const float inverse = there && total[r] != 0.0f ? 1.0f / total[r] : 0.0f;
      __half* y = static_cast<__half*>(args.y) +
                  ((static_cast<int64_t>(b) * args.tokens + s) * args.heads + head) * kDim + lane % 4 * 2;
      const float nan = __int_as_float(0x7fc00000);
#pragma unroll
      for (int p = 0; p < S::kPanels; ++p) {
#pragma unroll
        for (int i = 0; i < kPanel / 2; i += 4) {
          const float v0 = there ? sums[p][i + 2 * r] * inverse : 0.0f;
          const float v1 = there ? sums[p][i + 2 * r + 1] * inverse : 0.0f;
          *reinterpret_cast<uint32_t*>(y + p * kPanel + i / 4 * 8) =
              NarrowPair(sequence.valid ? v0 : nan, sequence.valid ? v1 : nan, IsBrain(args));
        }
      }
    }
  }
}

template <int kBits, int kDim>
cudaError_t Launch(const KvArgs& args, cudaStream_t stream) {
  auto* kernel = PrefillKernel<kBits, kDim>;
  constexpr int kBytes = Shape<kDim>::kSharedBytes;
  const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (e != cudaSuccess) return e;
  if (args.scratch) {
    constexpr int kKeys = Shape<kDim>::kKeys;
    const dim3 tiles(static_cast<unsigned>((args.limit + kKeys - 1) / kKeys), static_cast<unsigned>(args.kv_heads),
                     static_cast<unsigned>(args.batch));
    TurnKeysKernel<kBits, kDim, kKeys><<<tiles, kTurnThreads, 0, stream>>>(args);
  }
  const dim3 grid((args.query_rows() + kRows - 1) / kRows, args.kv_heads, args.batch);
  kernel<<<grid, kThreads, kBytes, stream>>>(args);
  return cudaGetLastError();
}

template <int kBits>
cudaError_t LaunchBits(const KvArgs& args, cudaStream_t stream) {
  switch (args.head_dim) {
    case 32:
      return Launch<kBits, 32>(args, stream);
    case 64:
      return Launch<kBits, 64>(args, stream);
    case 80:
      return Launch<kBits, 80>(args, stream);
    case 96:
      return Launch<kBits, 96>(args, stream);
    case 128:
      return Launch<kBits, 128>(args, stream);
    case 256:
      return Launch<kBits, 256>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t LaunchKvPrefillSm90(const KvArgs& args, cudaStream_t stream) {
  return args.bits == 4 ? LaunchBits<4>(args, stream) : LaunchBits<8>(args, stream);
}

}  // namespace lowbit::cuda
