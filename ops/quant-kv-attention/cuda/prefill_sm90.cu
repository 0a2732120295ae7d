// Attention of many queries on Hopper's tensor cores. An item of work is 128 query rows (the heads of a group side by
// side) of one kv head; a block on every multiprocessor takes one after another. One warpgroup brings queries and keys
// and one values, tile by tile, into rings in shared memory, items ahead where there is room; two multiply 64 rows each
// with them, keeping a running softmax in registers.
#include <algorithm>
#include <type_traits>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-kv-attention/cuda/prefill_keys.cuh"
#include "ops/quant-kv-attention/cuda/prefill_scores.cuh"
#include "ops/quant-kv-attention/cuda/tile_descriptors.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kRows = kPrefillRows;
constexpr int kThreads = 512;  // warpgroups: keys, values, two that multiply
constexpr int kSlots = 2;      // tiles of a ring
constexpr int kMultiplyingWarps = 8;
constexpr int kItems = 4;  // a ring of items' facts, for results are written when the next item has begun

template <int kDim>
struct Shape {
  static constexpr int kKeys = kDim <= 128 ? 128 : 64;  // of a tile
  static constexpr int kTileBytes = kKeys * kDim * 2;
  static constexpr int kQueryBytes = kRows * kDim * 2;
  static constexpr int kQuerySlots = kDim <= 128 ? 2 : 1;
  static constexpr int kSharedBytes = kQuerySlots * kQueryBytes + 2 * kSlots * kTileBytes +
                                      TileFiller<4, kDim, kKeys, true, Filling::kAny>::kStageBytes +
                                      kItems * sizeof(PrefillItem) + (2 * kQuerySlots + 4 * kSlots) * 8;
  // Columns of one product of weights and values.
  static constexpr int kPanel = kDim % 128 == 0 ? 128 : kDim % 64 == 0 ? 64 : kDim % 32 == 0 ? 32 : 16;
  static constexpr int kPanels = kDim / kPanel;
};

// A place in a ring of `kPlaces`, counted on: registers are dear.
template <int kPlaces>
struct Ring {
  uint32_t count = 0;

  __device__ __forceinline__ int slot() const { return static_cast<int>(count % kPlaces); }
  __device__ __forceinline__ uint32_t phase() const { return count / kPlaces % 2; }
};

// The tiles of an item, by 128 threads.
template <int kBits, int kDim, bool kIsKey, Filling kFilling>
__device__ __forceinline__ void Produce(const KvArgs& args, const PrefillItem& item, uint8_t* tiles,
                                        const uint8_t* stage, uint64_t* full, uint64_t* empty, Ring<kSlots>& at) {
  constexpr int kKeys = Shape<kDim>::kKeys;
  const int64_t head_row = (static_cast<int64_t>(item.b) * args.kv_heads + item.kv_head) * args.present_k.rows;
  TileFiller<kBits, kDim, kKeys, kIsKey, kFilling> filler(args, head_row, item.begin, item.end, stage);
  for (int key = item.begin; key < item.end; key += kKeys) {
    BarrierWait(empty + at.slot(), at.phase() ^ 1);  // the ring starts empty
    filler.Fill(key, tiles + at.slot() * Shape<kDim>::kTileBytes);
    FenceAsyncProxy();
    BarrierArrive(full + at.slot());
    ++at.count;
  }
}

template <int kBits, int kDim>
__global__ __launch_bounds__(kThreads, 1) void PrefillKernel(const __grid_constant__ KvArgs args) {
  using S = Shape<kDim>;
  constexpr int kKeys = S::kKeys, kPanel = S::kPanel;
  extern __shared__ __align__(128) uint8_t memory[];
  uint8_t *queries = memory, *key_tiles = memory + S::kQuerySlots * S::kQueryBytes;
  uint8_t* value_tiles = key_tiles + kSlots * S::kTileBytes;
  uint8_t* stage = value_tiles + kSlots * S::kTileBytes;
  PrefillItem* items =
      reinterpret_cast<PrefillItem*>(stage + TileFiller<kBits, kDim, kKeys, true, Filling::kAny>::kStageBytes);
  uint64_t *key_full = reinterpret_cast<uint64_t*>(items + kItems), *key_empty = key_full + kSlots;
  uint64_t *value_full = key_empty + kSlots, *value_empty = value_full + kSlots;
  uint64_t *query_full = value_empty + kSlots, *query_empty = query_full + S::kQuerySlots;

  // Where keys only have to be copied, one warp does that and three bring queries; otherwise four do both.
  const int query_warps = args.scratch ? 3 : 4;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; ++i) {
      BarrierInit(key_full + i, args.scratch ? 1 : 128);
      BarrierInit(value_full + i, 128);
      BarrierInit(key_empty + i, kMultiplyingWarps);
      BarrierInit(value_empty + i, kMultiplyingWarps);
    }
    for (int i = 0; i < S::kQuerySlots; ++i) {
      BarrierInit(query_full + i, query_warps);
      BarrierInit(query_empty + i, kMultiplyingWarps);
    }
    BarrierInitFence();
  }
  __syncthreads();

  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, group = args.group();
  PrefillItems<kKeys> list(args);
  if (warpgroup == 0) {
    GiveRegisters<88>();
    const float factor = args.scale * 1.44269504f * (args.rotate_on_read ? 2.0f : 1.0f);  // turned keys come halved
    Ring<S::kQuerySlots> queries_at;
    // Queries and facts of an item, also of what stands behind the last.
    const auto bring_queries = [&](const PrefillItem& item) {
      BarrierWait(query_empty + queries_at.slot(), queries_at.phase() ^ 1);
      const int first = 4 - query_warps;
      if (item.b >= 0) {
        FillQueries<kDim>(args, item, factor, queries + queries_at.slot() * S::kQueryBytes, warp - first, query_warps);
      }
      if (warp == 3 && lane == 0) items[queries_at.count % kItems] = item;
      FenceAsyncProxy();
      __syncwarp();
      if (lane == 0) BarrierArrive(query_full + queries_at.slot());
      ++queries_at.count;
    };
    const auto produce = [&](auto filling) {
      Ring<kSlots> at;
      while (true) {
        const PrefillItem item = list.Next();
        if (item.b >= 0 && item.begin >= item.end) continue;
        bring_queries(item);
        if (item.b < 0) break;
        Produce<kBits, kDim, true, decltype(filling)::value>(args, item, key_tiles, stage, key_full, key_empty, at);
      }
    };
    if (args.scratch && warp > 0) {
      while (true) {
        const PrefillItem item = list.Next();
        if (item.b >= 0 && item.begin >= item.end) continue;
        bring_queries(item);
        if (item.b < 0) break;
      }
    } else if (args.scratch) {
      if (lane == 0) {
        const int tiles = (args.limit + kKeys - 1) / kKeys;
        Ring<kSlots> at;
        for (PrefillItem item = list.Next(); item.b >= 0; item = list.Next()) {
          const uint8_t* from = static_cast<const uint8_t*>(args.scratch) +
                                (static_cast<int64_t>(item.b) * args.kv_heads + item.kv_head) * tiles * S::kTileBytes;
          for (int key = item.begin; key < item.end; key += kKeys) {
            BarrierWait(key_empty + at.slot(), at.phase() ^ 1);
            BarrierArriveExpect(key_full + at.slot(), S::kTileBytes);
            BulkLoad(key_full + at.slot(), key_tiles + at.slot() * S::kTileBytes,
                     from + static_cast<int64_t>(key / kKeys) * S::kTileBytes, S::kTileBytes);
            ++at.count;
          }
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
    Ring<kSlots> at;
    for (PrefillItem item = list.Next(); item.b >= 0; item = list.Next()) {
      if (item.begin < item.end) {
        Produce<kBits, kDim, false, Filling::kPlain>(args, item, value_tiles, stage, value_full, value_empty, at);
      } else {
        WriteNothing<kDim>(args, item);
      }
    }
  } else {
    TakeRegisters<192>();
    const int to_row = (warpgroup - 2) * 64, thread_row = to_row + warp * 16 + lane / 4;

    Rows rows;
    float sums[S::kPanels][kPanel / 2];
    float score[kKeys / 2], top[2], total[2], fade[2];
    uint32_t weights[kKeys / 16][4];
    Ring<kSlots> keys_at, values_at;
    Ring<S::kQuerySlots> queries_at;
    const auto release = [&](uint64_t* empty, auto& at) {
      if (lane == 0) BarrierArrive(empty + at.slot());
      ++at.count;
    };
    const auto multiply_keys = [&] {
      const uint64_t query_tile = ChannelsDescriptor(queries + queries_at.slot() * S::kQueryBytes + to_row * 16, kRows);
      BarrierWait(key_full + keys_at.slot(), keys_at.phase());
      const uint64_t keys = ChannelsDescriptor(key_tiles + keys_at.slot() * S::kTileBytes, kKeys);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) {
        WgmmaF16(score, query_tile + step * 2 * kRows, keys + step * 2 * kKeys, step > 0);
      }
      WgmmaCommit();
    };
    const auto multiply_values = [&] {
      BarrierWait(value_full + values_at.slot(), values_at.phase());
      const uint64_t values = RowsDescriptor(value_tiles + values_at.slot() * S::kTileBytes, kKeys);
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
    const auto soften = [&](int key, bool inside) {
      Finish(args, rows, key, inside, score);
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
    // Results of an item. Queries behind their sequence give 0, also where an inside tile gave them scores.
    const auto write = [&](const PrefillItem& item) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        total[r] += __shfl_xor_sync(~0u, total[r], 1);
        total[r] += __shfl_xor_sync(~0u, total[r], 2);
        const int row = item.first_row + thread_row + 8 * r, s = row / group;
        const int64_t to =
            (static_cast<int64_t>(item.b) * args.tokens + s) * args.heads + item.kv_head * group + (row - s * group);
        WriteRow<kDim>(static_cast<uint16_t*>(args.y) + to * kDim, IsBrain(args), row < args.query_rows(),
                       item.sequence.start + s < item.sequence.length, total[r], r, sums);
      }
    };
    // Named barriers 4 and 5 stand for the turns of the two.
    const auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(2 + warpgroup) : "memory"); };
    const auto pass_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(7 - warpgroup) : "memory"); };
    // Whether there is an item at queries_at.
    const auto any_more = [&] {
      BarrierWait(query_full + queries_at.slot(), queries_at.phase());
      return items[queries_at.count % kItems].b >= 0;
    };
    if (warpgroup == 3) pass_turn();
    bool more = any_more();
    take_turn();
    if (more) {
      multiply_keys();
      WgmmaWait<0>();
      release(key_empty, keys_at);
    }
    pass_turn();
    while (more) {
      const PrefillItem& item = items[queries_at.count % kItems];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = item.first_row + thread_row + 8 * r, s = min(row, args.query_rows() - 1) / group;
        const KvSpan span(args, item.sequence, s);
        rows.begin[r] = span.begin;
        rows.end[r] = row < args.query_rows() ? span.end : 0;
        rows.mask[r] = static_cast<const __half*>(args.mask);
        if (args.mask) {
          rows.mask[r] += item.b * args.mask_batch_stride +
                          (item.kv_head * group + row % group) * args.mask_head_stride + s * args.mask_row_stride;
        }
        top[r] = -1e30f, total[r] = 0.0f;
      }
      // Every row of this warpgroup that is there sees keys [inside_begin, inside_end).
      const int group_row = item.first_row + to_row, queries_there = item.sequence.length - item.sequence.start;
      const int group_last = min(group_row + 63, args.query_rows() - 1) / group;
      const int inside_end = KvSpan(args, item.sequence, min(group_row, args.query_rows() - 1) / group).end;
      const int inside_begin = KvSpan(args, item.sequence, max(0, min(group_last, queries_there - 1))).begin;
      const int begin = item.begin, end = item.end;
      const auto inside = [&](int key) { return key >= inside_begin && key + kKeys <= inside_end; };
#pragma unroll
      for (int p = 0; p < S::kPanels; ++p) {
#pragma unroll
        for (int i = 0; i < kPanel / 2; ++i) sums[p][i] = 0.0f;
      }
      soften(begin, inside(begin));
      pack_weights();
      // The softmax of a tile runs beside the products of the other warpgroup: they take turns at the tensor cores.
      for (int key = begin + kKeys; key < end; key += kKeys) {
        take_turn();
        multiply_keys();
        multiply_values();
        pass_turn();
        WgmmaWait<1>();
        release(key_empty, keys_at);
        soften(key, inside(key));
        WgmmaWait<0>();
        release(value_empty, values_at);
#pragma unroll
        for (int p = 0; p < S::kPanels; ++p) {
#pragma unroll
          for (int i = 0; i < kPanel / 2; ++i) sums[p][i] *= fade[i / 2 % 2];
        }
        pack_weights();
      }
      release(query_empty, queries_at);
      // The last product of an item beside the first of the next.
      more = any_more();
      take_turn();
      if (more) {
        multiply_keys();
        multiply_values();
        pass_turn();
        WgmmaWait<0>();
        release(key_empty, keys_at);
      } else {
        multiply_values();
        pass_turn();
        WgmmaWait<0>();
      }
      release(value_empty, values_at);
      write(item);
    }
    if (warpgroup == 2) take_turn();  // the other's last pass
  }
}

template <int kBits, int kDim>
cudaError_t Launch(const KvArgs& args, cudaStream_t stream) {
  auto* kernel = PrefillKernel<kBits, kDim>;
  constexpr int kBytes = Shape<kDim>::kSharedBytes;
  int multiprocessors = 0;
  cudaError_t e = Multiprocessors(&multiprocessors);
  if (e == cudaSuccess) e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (e != cudaSuccess) return e;
  if (args.scratch) {
    constexpr int kKeys = Shape<kDim>::kKeys;
    const dim3 tiles(static_cast<unsigned>((args.limit + kKeys - 1) / kKeys), static_cast<unsigned>(args.kv_heads),
                     static_cast<unsigned>(args.batch));
    TurnKeysKernel<kBits, kDim, kKeys><<<tiles, kTurnThreads, 0, stream>>>(args);
  }
  const int64_t items = (args.query_rows() + kRows - 1) / kRows * static_cast<int64_t>(args.kv_heads) * args.batch;
  kernel<<<static_cast<unsigned>(std::min<int64_t>(items, multiprocessors)), kThreads, kBytes, stream>>>(args);
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
