// FP4 weights whose scales have ratios of powers of two, folded into FP8 operands: what the kernel's warps share, and
// the warps that make tables of the scales.
//
// An e2m1 value times 2^(6 - k) is an e4m3 value, so the table through which nibbles become e4m3 depends on k, and the
// sums of all groups have one scale, base(row) / 64.
#pragma once
#include "ops/quant-gemm/cuda/fp8_shifts.cuh"

namespace lowbit::cuda::fp8::folded {

constexpr int kTableSteps = 4;  // whose tables are made at one time

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
  uint4 tables[kTables][kTableSteps][kChannels];
  float token_scale[kScales][4 * kQuarter];  // with the last tables of a tile
  float row_scale[kScales][kChannels];
  uint4 folded[16];  // a table for each k
  uint16_t first_base[kChannels];
  uint64_t full[kStages], empty[kStages];                // tokens and weights
  uint64_t tables_full[kTables], tables_empty[kTables];  // tables
  uint64_t residual[2][2];                               // the residual is in `result`
};

// Two warps of 64 rows: tables for four steps at a time, and a tile's scales with its last ones.
__device__ __forceinline__ void ProduceTables(const Plan& plan, Shared& s, int thread, uint32_t rank) {
  RingPosition<Shared::kTables> ring;
  RingPosition<Shared::kScales> scales;
  ForEachShift<kTableSteps>(
      plan, s, thread, rank,
      [&](const Work& work, int first, const uint32_t(&shift)[2][kTableSteps], const float(&scale)[2]) {
        BarrierWait(&s.tables_empty[ring.stage], ring.parity ^ 1);
#pragma unroll
        for (int j = 0; j < kTableSteps; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) s.tables[ring.stage][j][thread + 64 * i] = s.folded[shift[i][j]];
        }
        if (first + kTableSteps >= plan.body_steps) {
          float* tokens = s.token_scale[scales.stage];
#pragma unroll
          for (int i = 0; i < Shared::kTokens / 64; ++i) {
            const int token = thread + 64 * i;
            // An ordinary load: what __ldg reads may not change after the kernel's start.
            tokens[token / 2 % 4 * Shared::kQuarter + token / 8 * 2 + token % 2] =
                plan.args.a_scale[min(work.token + token, plan.args.m - 1)];
          }
#pragma unroll
          for (int i = 0; i < 2; ++i) s.row_scale[scales.stage][thread + 64 * i] = scale[i];
          scales.Advance();
        }
        BarrierArrive(&s.tables_full[ring.stage]);
        ring.Advance();
      },
      [](const Work&) {});
}

}  // namespace lowbit::cuda::fp8::folded
