// FP4 weights whose scales have ratios of powers of two, folded into FP8 operands: what the kernel's warps share, and
// the warps that make tables of the scales.
//
// scale(row, group) = base(row) * 2^-k with the row's largest scale for base. An e2m1 value times 2^(6 - k) is an e4m3
// value for k = 0 ... 14, so the table through which nibbles become e4m3 depends on k, and the sums of all groups have
// one scale, base(row) / 64.
#pragma once
#include "ops/quant-gemm/cuda/fp8_tiles.cuh"

namespace lowbit::cuda::fp8::folded {

constexpr int kLargestShift = 14;
constexpr int kTableSteps = 4;    // whose tables are made at one time
constexpr int kTableBarrier = 4;  // named: the first tile's bases are there

constexpr int kChannels = Block<2>::kChannels, kMathWarps = Block<2>::kMathWarps, kThreads = Block<2>::kThreads;

struct alignas(1024) Shared : Block<2> {
  static constexpr int kTokens = 256;
  static constexpr int kStages = 4;
  static constexpr int kTokenBytes = kTokens * kStep;
  static constexpr int kNibbleBytes = kChannels * kNibbleRow;
  static constexpr int kQuarter = kTokens / 4 + 4;  // see fp8::Shared
  static constexpr int kTables = 2;                 // batches of kTableSteps
  static constexpr int kScales = 3;                 // tiles
  static constexpr int kResultTokens = 64;          // results leave in parts, through two buffers a warpgroup
  uint8_t tokens[kStages][kTokenBytes];
  uint8_t weights[kStages][kNibbleBytes];
  uint8_t result[2][2][kResultTokens * 128];
  uint2 tables[kTables][kTableSteps][kChannels];
  float token_scale[kScales][4 * kQuarter];  // with the last tables of a tile
  float row_scale[kScales][kChannels];
  uint2 folded[16];  // a table for each k
  uint16_t first_base[kChannels];
  uint64_t full[kStages], empty[kStages];                // tokens and weights
  uint64_t tables_full[kTables], tables_empty[kTables];  // tables
  uint64_t residual[2][2];                               // the residual is in `result`
};

// The math warps, while the first tile's codes are on their way: the largest scale of each of its rows. Those of later
// tiles are found during the tile before.
__device__ __forceinline__ void FindFirstBases(const Plan& plan, Shared& s, int warp, uint32_t rank) {
  constexpr int kRows = kChannels / kMathWarps;
  const GemmArgs& args = plan.args;
  const int lane = threadIdx.x % 32, row = warp * kRows, groups = args.b_scales();
  const Work work = WorkOf<Shared>(plan, blockIdx.x / plan.cluster(), rank);
  uint32_t largest[kRows] = {};
  for (int g = lane; g < groups; g += 32) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t n = min(work.channel + row + i, args.n - 1);
      largest[i] = max(largest[i], static_cast<uint32_t>(__ldg(args.b_scale + n * groups + g)));
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const uint32_t most = __reduce_max_sync(~0u, largest[i]);
    if (lane == i) s.first_base[row + i] = static_cast<uint16_t>(most);
  }
  NamedBarrierArrive(kTableBarrier, 2 * kWarpgroup + 64);
}

// Two warps of 64 rows: tables for four steps at a time, and a tile's scales with its last ones. Scales come from
// memory a batch ahead, with those of the next tile. Where one breaks the rule its row's results are NaN.
class TableMaker {
 public:
  __device__ __forceinline__ TableMaker(const Plan& plan, Shared& s, int helper, uint32_t rank)
      : plan_(plan), s_(s), rank_(rank), thread_(helper * 32 + threadIdx.x % 32) {}

  __device__ __forceinline__ void Run() {
    const int clusters = gridDim.x / plan_.cluster(), steps = plan_.body_steps;
    int tile = blockIdx.x / plan_.cluster();
    Work next = WorkOf<Shared>(plan_, tile, rank_);
    const uint16_t* next_rows[2] = {RowOf(next, 0), RowOf(next, 1)};
    NamedBarrier(kTableBarrier, 2 * kWarpgroup + 64);
    uint32_t next_base[2] = {s_.first_base[thread_], s_.first_base[thread_ + 64]};
    for (; tile < plan_.tiles.count(); tile += clusters) {
      const Work work = next;
      const uint16_t* rows[2] = {next_rows[0], next_rows[1]};
      const uint32_t base[2] = {Bits(next_base[0]), Bits(next_base[1])};
      bool folds[2] = {true, true};
      next = WorkOf<Shared>(plan_, min(tile + clusters, plan_.tiles.count() - 1), rank_);
      next_rows[0] = RowOf(next, 0), next_rows[1] = RowOf(next, 1);
      next_base[0] = next_base[1] = 0;
      uint16_t ahead[2][kTableSteps], later[2][kTableSteps];
      const auto load = [&](int first) {
#pragma unroll
        for (int j = 0; j < kTableSteps; ++j) {
          const int group = min(first + j, steps - 1) / group_steps_;
#pragma unroll
          for (int i = 0; i < 2; ++i) ahead[i][j] = __ldg(rows[i] + group), later[i][j] = __ldg(next_rows[i] + group);
        }
      };
      load(0);
      for (int first = 0; first < steps; first += kTableSteps) {
        uint32_t down[2][kTableSteps];
#pragma unroll
        for (int j = 0; j < kTableSteps; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            down[i][j] = base[i] - Bits(ahead[i][j]);
            folds[i] = folds[i] && down[i][j] << 9 == 0 && down[i][j] >> 23 <= kLargestShift;
            next_base[i] = max(next_base[i], static_cast<uint32_t>(later[i][j]));
          }
        }
        if (first + kTableSteps < steps) load(first + kTableSteps);
        BarrierWait(&s_.tables_empty[ring_.stage], ring_.parity ^ 1);
#pragma unroll
        for (int j = 0; j < kTableSteps; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            s_.tables[ring_.stage][j][thread_ + 64 * i] = s_.folded[down[i][j] >> 23 & 15];
          }
        }
        if (first + kTableSteps >= steps) WriteScales(work, base, folds);
        BarrierArrive(&s_.tables_full[ring_.stage]);
        ring_.Advance();
      }
    }
  }

 private:
  __device__ __forceinline__ static uint32_t Bits(uint32_t half) {
    return __float_as_uint(Widen(__ushort_as_half(static_cast<uint16_t>(half))));
  }
  __device__ __forceinline__ const uint16_t* RowOf(const Work& work, int i) const {
    const int channel = min(work.channel + thread_ + 64 * i, plan_.args.n - 1);
    return plan_.args.b_scale + static_cast<int64_t>(channel) * plan_.args.b_scales();
  }
  __device__ __forceinline__ void WriteScales(const Work& work, const uint32_t (&base)[2], const bool (&folds)[2]) {
    float* tokens = s_.token_scale[scales_.stage];
#pragma unroll
    for (int i = 0; i < Shared::kTokens / 64; ++i) {
      const int token = thread_ + 64 * i;
      // An ordinary load: what __ldg reads may not change after the kernel's start.
      tokens[token / 2 % 4 * Shared::kQuarter + token / 8 * 2 + token % 2] =
          plan_.args.a_scale[min(work.token + token, plan_.args.m - 1)];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      s_.row_scale[scales_.stage][thread_ + 64 * i] =
          folds[i] ? __uint_as_float(base[i]) * plan_.weight_factor : __int_as_float(0x7fc00000);
    }
    scales_.Advance();
  }

  const Plan& plan_;
  Shared& s_;
  const uint32_t rank_;
  const int thread_;
  const int group_steps_ = plan_.args.group_size ? plan_.args.group_size / kStep : plan_.body_steps;
  RingPosition<Shared::kTables> ring_;
  RingPosition<Shared::kScales> scales_;
};

}  // namespace lowbit::cuda::fp8::folded
