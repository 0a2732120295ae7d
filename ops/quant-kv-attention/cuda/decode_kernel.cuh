// The decode kernel: queries into fragments, a loop over this warp's keys, and the merge of all parts.
#pragma once
#include <climits>
#include <type_traits>

#include "ops/quant-kv-attention/cuda/decode_merge.cuh"

namespace lowbit::cuda {

// Warps of a multiprocessor, for the registers of the sums and shared memory for the rings.
template <int kBits, int kDim, Turn kTurn>
constexpr int kResidentWarps = kBits * kDim > 1024 ? 8
                               : kBits* kDim > 512 ? 12
                                                   : 16;

struct NoTables {
  static constexpr int kBytes = 0, kStepBytes = 0;
};

// What the kernel keeps in shared memory: a ring for each warp, tables for each `kSharing` of them, and for as many
// heads the queries and what R1 is multiplied with.
template <int kBits, int kDim, Turn kTurn, int kSharing, int kHeads>
struct DecodeMemory {
  using Layout = DecodeLayout<kBits, kDim, kTurn>;
  static constexpr bool kTables = kTurn != Turn::kNone;
  using Ring = DecodeRing<Layout, kRingSteps<Layout::kRowBytes, kTables, kHeads>, kHeads>;
  using Tables = std::conditional_t<kTables, TableStage<kBits, kDim, kTurn, kSharing>, NoTables>;
  using Query = DecodeQuery<Layout, kTurn>;
  static_assert(Ring::kBytes % 16 == 0 && Ring::kBytes >= DecodeShared::Bytes(kDim), "the sums' place");

  // Queries that are staged lie where operands of tables will be, if those have room; else neighbours start in
  // different banks.
  static constexpr bool kStaged = kTurn != Turn::kHalf, kStagedInside = kTables && kHeads == 2;
  static constexpr int kStagedStride = kStagedInside ? kDim : kDim + 8;  // halves
  static constexpr int kStagedBytes = kStaged ? kStagedStride * 2 : 0;
  static_assert(!kStagedInside || kSharing * kDecodeRows * kStagedBytes <= Tables::kBytes - Tables::kStepBytes);

  static constexpr int TablesAt(int warps, int key_warp) { return warps * Ring::kBytes + key_warp * Tables::kBytes; }
  static constexpr int OperandsAt(int warps) { return TablesAt(warps, warps / kSharing); }
  static constexpr int StagedAt(int warps, int used) {
    return kStagedInside ? TablesAt(warps, 0) + Tables::kStepBytes
                         : OperandsAt(warps) + kSharing * kHeads * used * Query::kOperandBytes;
  }
  static constexpr int Bytes(int warps, int used) {
    return OperandsAt(warps) + kSharing * kHeads * used * (Query::kOperandBytes + (kStagedInside ? 0 : kStagedBytes));
  }
};

template <int kBits, int kDim, Turn kTurn, int kSharing, int kHeads>
__global__ __launch_bounds__(32 * kResidentWarps<kBits, kDim, kTurn>, 1)  //
    void DecodeKernel(const __grid_constant__ DecodePlan plan) {
  using Memory = DecodeMemory<kBits, kDim, kTurn, kSharing, kHeads>;
  using Layout = typename Memory::Layout;
  using Ring = typename Memory::Ring;
  constexpr bool kTables = Memory::kTables;
  constexpr int kCount = Ring::kSteps;
  extern __shared__ __align__(128) uint8_t memory[];
  const KvArgs& args = plan.args;
  const int warp = threadIdx.x / 32;
  const int rank = blockIdx.x;
  const int b = blockIdx.z, head_block = plan.row_blocks_divisor.Of(blockIdx.y);
  const int first_row = (blockIdx.y - head_block * plan.row_blocks) * kDecodeRows;
  const int head = warp % kSharing * kHeads, first_head = head_block * kSharing * kHeads;
  const int kv_head = first_head + head;
  const int key_warps = plan.warps / kSharing, key_warp = warp / kSharing;
  const SmallDivisor used_rows(min(kDecodeRows, args.query_rows() - first_row));
  const int used = used_rows.divisor;
  const KvSequence sequence(args, b);
  Ring ring(args, (static_cast<int64_t>(b) * args.kv_heads + kv_head) * args.present_k.rows,
            SharedAddress(memory) + warp * Ring::kBytes);

  // Keys of the block: from the first that its first query sees to the last that its last one does.
  const int queries = sequence.length - sequence.start;
  const int first_s = plan.Token(first_row), last_s = min(plan.Token(first_row + used - 1), queries - 1);
  const KvSpan first_span(args, sequence, first_s), last_span(args, sequence, max(0, last_s));
  // Each warp takes neighbouring steps of them, one more where they do not come out even.
  const int begin = first_span.begin / kDecodeKeys * kDecodeKeys;
  const int all = queries > first_s ? (last_span.end - begin + kDecodeKeys - 1) / kDecodeKeys : 0;
  const int part = rank * key_warps + key_warp, least = plan.key_warps.Of(all);
  const int rest = all - least * plan.split * key_warps;
  int key = begin + (part * least + min(part, rest)) * kDecodeKeys;
  const int end = min(last_span.end, key + (least + (part < rest ? 1 : 0)) * kDecodeKeys);

  // Queries, lengths and tables are older than the append kernel, which may still be writing the cache.
  typename Memory::Tables tables;
  if constexpr (kTables) {
    tables.Start(args, SharedAddress(memory) + Memory::TablesAt(plan.warps, key_warp), warp % kSharing);
    if (key < end) tables.Ask(args, key);
  }
  std::conditional_t<kTurn == Turn::kHalf, HalvesStage<Layout, kBits, kDim>, QueryStage<kDim, Memory::kStagedStride>>
      stage{plan, b, first_head, kSharing * kHeads, first_row, used_rows};
  stage.Ask(sequence);
  ring.Prefetch(key, end);
  WaitForPriorKernelsIfAny();
#pragma unroll
  for (int i = 0; i < kCount - 1; ++i) {
    if (key + i * kDecodeKeys < end) ring.AskFirst(i, key + i * kDecodeKeys, end);
    CommitCopies();
  }
  typename Memory::Query q;
  const uint32_t all_operands = SharedAddress(memory) + Memory::OperandsAt(plan.warps);
  const uint32_t operands = all_operands + head * used * Memory::Query::kOperandBytes;
  if constexpr (kTurn == Turn::kHalf) {
    stage.Store(sequence, all_operands);
    LocateQuery<kHeads>(args, used, operands, q);
  } else {
    __half* staged = reinterpret_cast<__half*>(memory + Memory::StagedAt(plan.warps, used));
    stage.Store(sequence, staged);
    __syncthreads();
    LoadQuery<kBits, kDim, kTurn, kHeads, Memory::kStagedStride>(args, staged + head * used * Memory::kStagedStride,
                                                                 used, operands, key_warp == 0, q);
  }
  if constexpr (kTurn != Turn::kNone) __syncthreads();

  const bool plain = args.softcap <= 0.0f && !args.mask;
  const int plain_begin = plain ? last_span.begin : INT_MAX, plain_end = first_span.end;

  DecodeState<Layout, kHeads> state;
  for (int step = 0; key < end; ++step, key += kDecodeKeys) {
    // Codes of later steps may still be on their way.
    WaitCopies<kCount - 2>();
    __syncwarp();
    if constexpr (kTables) {
      tables.Arrange(args, step, 1 + key_warp);
      if (key + kDecodeKeys < end) tables.Ask(args, key + kDecodeKeys);
      CommitCopies();
    }
    if (key + (kCount - 1) * kDecodeKeys < end) ring.Ask(key + (kCount - 1) * kDecodeKeys, end);
    CommitCopies();
    if (key >= plain_begin && key + kDecodeKeys <= plain_end) {
      Step<kBits, kTurn, true, kHeads>(args, ring, q, tables, step, key, end, DecodeRows(), state);
    } else {
      const DecodeRows rows(plan, sequence, b, kv_head, kHeads, first_row, used);
      Step<kBits, kTurn, false, kHeads>(args, ring, q, tables, step, key, end, rows, state);
    }
    ring.Next();
  }
  LetNextKernelStartIfAny();  // its blocks take the place of those that are done
  const DecodeShared shared{reinterpret_cast<float*>(memory), Ring::kBytes / 4, used_rows, kDim};
  __syncwarp();
  StoreState<kBits, kHeads>(state, shared);
  __syncthreads();
  Merge<kDim, kSharing, kHeads>(plan, shared, sequence, b, first_head, first_row);
}

}  // namespace lowbit::cuda
