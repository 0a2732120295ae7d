// Keys stored before RoPE, dequantized and turned once for all blocks of queries: a pass over the cache into scratch
// memory, whose tiles lie as the prefill kernel wants them in shared memory and come there by one copy each.
#pragma once
#include "ops/quant-kv-attention/cuda/prefill_rows.cuh"

namespace lowbit::cuda {

constexpr int kTurnThreads = 256;

// A row of keys as TileFiller makes it: at half its size, and NaN where its value is.
template <int kBits>
struct KeyRow {
  const uint8_t* codes;
  __half2 scale, min;

  __device__ __forceinline__ KeyRow(const KvArgs& args, int64_t row)
      : codes(args.present_k.codes + row * args.row_bytes()) {
    const uint32_t value = __ldg(reinterpret_cast<const uint32_t*>(args.present_v.params) + row);
    uint32_t params = __ldg(reinterpret_cast<const uint32_t*>(args.present_k.params) + row);
    if ((value & 0x7c00) == 0x7c00) params = 0x7e007e00u;
    const __half2 both = __hmul2(*reinterpret_cast<const __half2*>(&params), __float2half2_rn(0.5f));
    scale = __low2half2(both), min = __high2half2(both);
  }
  __device__ __forceinline__ Chunk operator()(int chunk) const {
    return Dequantize<kBits>(LoadCodes<kBits>(codes, chunk), scale, min);
  }
};

// Block: a tile of kKeys rows of one kv head. Rows behind the sequence become zeros.
template <int kBits, int kDim, int kKeys>
__global__ __launch_bounds__(kTurnThreads) void TurnKeysKernel(const __grid_constant__ KvArgs args) {
  const ChunkPlan<Filling::kAny, kDim> plan(args);
  const int head = blockIdx.y + blockIdx.z * args.kv_heads, first = static_cast<int>(blockIdx.x) * kKeys;
  const KvSequence sequence(args, blockIdx.z);
  if (first >= sequence.length) return;
  const int64_t head_row = static_cast<int64_t>(head) * args.present_k.rows;
  uint4* to =
      static_cast<uint4*>(args.scratch) + (static_cast<int64_t>(head) * gridDim.x + blockIdx.x) * kKeys * (kDim / 8);
  // Eight lanes take a chunk of neighbouring rows, and four of them neighbouring chunks: loads and stores join up.
  constexpr int kEights = kKeys / 8, kWarps = kTurnThreads / 32;
  const int lane = threadIdx.x % 32, units = kEights * ((plan.items() + 3) / 4);
#pragma unroll 2
  for (int unit = threadIdx.x / 32; unit < units; unit += kWarps) {
    const int row = unit % kEights * 8 + lane % 8, item = unit / kEights * 4 + lane / 8;
    if (item >= plan.items()) continue;
    const int chunk = plan.chunk(item), j = first + row;
    Chunk a{}, b{};
    if (j < sequence.length) {
      const KeyRow<kBits> source(args, head_row + j);
      a = source(chunk);
      if (item < plan.pairs()) {
        b = source(chunk + plan.pairs());
        const int64_t table = static_cast<int64_t>(j) * args.pairs + 8 * item;
        TurnChunks(a, b, LoadChunk(args, args.cos, table), LoadChunk(args, args.sin, table));
      } else if (chunk < plan.turned_chunks()) {
        const int64_t table = static_cast<int64_t>(j) * args.pairs + 4 * chunk;
        TurnNeighbours(args, a, table);
      }
    }
    to[chunk * kKeys + row] = WordsOf(a);
    if (item < plan.pairs()) to[(chunk + plan.pairs()) * kKeys + row] = WordsOf(b);
  }
}

}  // namespace lowbit::cuda
