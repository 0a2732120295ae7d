// Weights' scales in powers of two, folded into the tables through which nibbles become e4m3: what turns them into
// shifts.
//
// scale(row, group) = base(row) * 2^-k with the row's largest scale for base, of those groups that a block multiplies.
#pragma once
#include "ops/quant-gemm/cuda/fp8_tiles.cuh"

namespace lowbit::cuda::fp8 {

constexpr int kShiftThreads = 64;  // two warps, each lane with every 64th row
constexpr int kBaseBarrier = 5;    // named: the first tile's bases are there

// Before the block's first barrier: a table for each k.
template <class S>
__device__ __forceinline__ void CopyFoldedTables(const Plan& plan, S& s) {
  if (threadIdx.x > kLargestShift) return;
  const uint32_t(&word)[4] = plan.folded.shift[threadIdx.x].word;
  s.folded[threadIdx.x] = make_uint4(word[0], word[1], word[2], word[3]);
}

__device__ __forceinline__ int StepsOfGroup(const Plan& plan) {
  return plan.args.group_size ? plan.args.group_size / kStep : plan.body_steps;
}

// The math warps, while the first tile's codes are on their way: the largest scale of each of its rows. Those of later
// tiles are found during the tile before.
template <class S>
__device__ __forceinline__ void FindFirstBases(const Plan& plan, S& s, int warp, uint32_t rank) {
  constexpr int kRows = S::kChannels / S::kMathWarps;
  const GemmArgs& args = plan.args;
  const int lane = threadIdx.x % 32, row = warp * kRows, groups = args.b_scales(), steps = StepsOfGroup(plan);
  const Work work = WorkOf<S>(plan, blockIdx.x / plan.cluster(), rank);
  uint32_t largest[kRows] = {};
  for (int g = work.first / steps + lane; g * steps < work.body_end; g += 32) {
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
  NamedBarrierArrive(kBaseBarrier, 32 * S::kMathWarps + kShiftThreads);
}

// kShiftThreads threads: batch(work, first, shift, scale) for every kBatch steps of a tile's body, from step `first`
// on, and rest(work) behind the last ones. shift[i][j]: k of row thread + 64 * i and step first + j, at most 15.
// scale[i], valid with the last steps: the row's base times weight_factor; NaN where a scale breaks the rule, the
// others being base * 2^-k with k <= kLargestShift. Scales come from memory a batch ahead, with those of the next tile.
template <int kBatch, class S, class Batch, class Rest>
__device__ __forceinline__ void ForEachShift(const Plan& plan, S& s, int thread, uint32_t rank, Batch&& batch,
                                             Rest&& rest) {
  constexpr int kRows = S::kChannels / kShiftThreads;
  const GemmArgs& args = plan.args;
  const int clusters = gridDim.x / plan.cluster(), groups = args.b_scales(), group_steps = StepsOfGroup(plan);
  const auto bits = [](uint32_t half) { return __float_as_uint(Widen(__ushort_as_half(static_cast<uint16_t>(half)))); };
  const auto row_of = [&](const Work& work, int i) {
    return min(work.channel + thread + kShiftThreads * i, args.n - 1) * groups;
  };
  uint32_t next_base[kRows];
  int tile = blockIdx.x / plan.cluster();
  for (bool first_tile = true; tile < plan.tiles.count(); tile += clusters, first_tile = false) {
    const Work work = WorkOf<S>(plan, tile, rank);
    const bool more = tile + clusters < plan.tiles.count();
    int rows[kRows], next_rows[kRows];
    {
      const Work next = WorkOf<S>(plan, more ? tile + clusters : tile, rank);
#pragma unroll
      for (int i = 0; i < kRows; ++i) rows[i] = row_of(work, i), next_rows[i] = row_of(next, i);
    }
    uint16_t now[kRows][kBatch], later[kRows][kBatch] = {};
    GroupCount count(group_steps, work.first);
    const auto load = [&] {
#pragma unroll
      for (int j = 0; j < kBatch; ++j, count.Advance()) {
        const int group = min(count.group(), groups - 1);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          now[i][j] = __ldg(args.b_scale + rows[i] + group);
          if (more) later[i][j] = __ldg(args.b_scale + next_rows[i] + group);
        }
      }
    };
    load();
    uint32_t base[kRows];
    bool folds[kRows];
    if (first_tile) {
      NamedBarrier(kBaseBarrier, 32 * S::kMathWarps + kShiftThreads);
#pragma unroll
      for (int i = 0; i < kRows; ++i) next_base[i] = s.first_base[thread + kShiftThreads * i];
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) base[i] = bits(next_base[i]), next_base[i] = 0, folds[i] = true;
    for (int first = work.first; first < work.body_end; first += kBatch) {
      uint32_t shift[kRows][kBatch];
      float scale[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          const uint32_t down = base[i] - bits(now[i][j]);
          shift[i][j] = down >> 23 & 15;
          if (first + j < work.body_end) folds[i] = folds[i] && down << 9 == 0 && down >> 23 <= kLargestShift;
          next_base[i] = max(next_base[i], static_cast<uint32_t>(later[i][j]));
        }
        scale[i] = folds[i] ? __uint_as_float(base[i]) * plan.weight_factor : __int_as_float(0x7fc00000);
      }
      if (first + kBatch < work.body_end) load();
      batch(work, first, shift, scale);
    }
    rest(work);
  }
}

// One warp: scales of tokens that have them per group. Those of a window of steps are neighbours in memory; asked for
// step by step they cost the path to memory an access a token and step. A part of the next window is asked for with
// every step of this one.
template <class S>
__device__ __forceinline__ void ProduceTokenWindows(const Plan& plan, S& s, uint32_t rank) {
  constexpr int kWindow = kScaleWindow, kRows = 32 / kWindow;  // steps and tokens of one copy of the warp
  constexpr int kCopies = S::kTokens / kRows / kWindow;
  const GemmArgs& args = plan.args;
  const int lane = threadIdx.x % 32, row = lane / kWindow, shift = lane % kWindow, scales = args.a_scales();
  const int group_steps = args.a_group_size / kStep, clusters = gridDim.x / plan.cluster();
  // A part of the window that begins with `step`.
  const auto copy = [&](const Work& work, int step, int slot, int part) {
    const int mine = step + shift;
    if (mine >= work.last) return;
    const float* const from =
        args.a_scale + work.token * scales + (mine < work.body_end ? mine / group_steps : scales - 1);
    float* const to = s.token_scale[(slot + shift) % S::kScaleSteps];
    const int last = static_cast<int>(min(static_cast<int64_t>(S::kTokens), args.m - work.token)) - 1;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {  // tokens behind the last one repeat it
      const int token = (part * kCopies + i) * kRows + row;
      CopyShared4(to + token / 2 % 4 * S::kQuarter + 2 * (token / 8) + token % 2, from + min(token, last) * scales);
    }
  };
  int tile = blockIdx.x / plan.cluster(), slot = 0;
  Work work = WorkOf<S>(plan, tile, rank);
  for (int part = 0; part < kWindow; ++part) copy(work, work.first, slot, part);
  RingPosition<S::kStages> ring;
  for (int step = work.first; step < work.last;) {
    const int steps = min(kWindow, work.last - step);
    step += steps;
    bool more = true;
    if (step == work.last) {
      tile += clusters;
      more = tile < plan.tiles.count();
      if (more) work = WorkOf<S>(plan, tile, rank), step = work.first;
    }
    for (int i = 0, part = 0; i < steps; ++i) {
      BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
      BarrierArriveCopies(&s.full[ring.stage]);
      ring.Advance();
      for (; more && part * steps < kWindow * (i + 1); ++part) copy(work, step, slot + steps, part);
    }
    slot = (slot + steps) % S::kScaleSteps;
  }
}

// Two warps: a table for each row and step, with a tile's last ones the rows' scales; then those of the outliers.
template <class S>
__device__ __forceinline__ void ProduceRowTables(const Plan& plan, S& s, int thread, uint32_t rank) {
  constexpr int kBatch = 1, kRows = S::kChannels / kShiftThreads;  // as registers allow
  RingPosition<S::kStages> ring;
  const auto arrive = [&] {
    BarrierArrive(&s.full[ring.stage]);
    ring.Advance();
  };
  ForEachShift<kBatch>(
      plan, s, thread, rank,
      [&](const Work& work, int first, const uint32_t(&shift)[kRows][kBatch], const float(&scale)[kRows]) {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (first + j >= work.body_end) break;
          BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            s.row_tables[ring.stage][thread + kShiftThreads * i] = s.folded[shift[i][j]];
            if (first + j + 1 == work.body_end) s.weight_scale[ring.stage][thread + kShiftThreads * i] = scale[i];
          }
          arrive();
        }
      },
      [&](const Work& work) {
        if (work.body_end == work.last) return;
        float scale[kRows];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int n = min(work.channel + thread + kShiftThreads * i, plan.args.n - 1);
          scale[i] = Widen(__ushort_as_half(__ldg(plan.args.b_outlier_scale + n)));
        }
        for (int step = work.body_end; step < work.last; ++step) {
          BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
#pragma unroll
          for (int i = 0; i < kRows; ++i) s.weight_scale[ring.stage][thread + kShiftThreads * i] = scale[i];
          arrive();
        }
      });
}

}  // namespace lowbit::cuda::fp8
