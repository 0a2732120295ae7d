// QuantGemm on Hopper's FP8 tensor cores: what the kernel's warps share, and the warps that feed it.
#pragma once
#include "ops/quant-gemm/cuda/nibble_codes.cuh"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda::fp8 {

constexpr int kStep = 128;             // input channels of a stage
constexpr int kNibbleRow = kStep / 2;  // bytes of a weight row in a stage
constexpr int kScaleWindow = 4;        // steps whose token scales are asked for together

// What follows from the number of warpgroups that multiply, 64 output channels each.
template <int kWarpgroups_>
struct Block {
  static constexpr int kWarpgroups = kWarpgroups_;
  static constexpr int kChannels = 64 * kWarpgroups;
  static constexpr int kMathWarps = 4 * kWarpgroups;
  static constexpr int kThreads = (1 + kWarpgroups) * kWarpgroup;
  static constexpr int kWeightBytes = kChannels * kStep;  // nibbles use half
};

struct Plan {
  GemmArgs args;
  TileOrder tiles;  // rows: token tiles; columns: what a cluster has along the output channels
  int split = 1;    // 1: a cluster's two blocks have neighbouring channels and share the tokens' tile; more: the
                    // cluster's blocks have the same tile and a part of the input channels each
  int body_steps = 0, outlier_steps = 0;
  float weight_factor = 1.0f;  // of body scales
  NibbleTables tables;
  FoldedTables folded;  // of weights with scales in powers of two

  __device__ __forceinline__ int cluster() const { return split > 1 ? split : 2; }
};

template <int kTokens_, int kWarpgroups, bool kFolds>
struct alignas(1024) Shared : Block<kWarpgroups> {
  using Block<kWarpgroups>::kChannels, Block<kWarpgroups>::kWeightBytes;
  static constexpr int kTokens = kTokens_;
  static constexpr int kStages = kTokens == 256 ? 3 : kWarpgroups == 3 ? 4 : kTokens == 128 ? 5 : 6;
  static constexpr int kTokenBytes = kTokens * kStep;
  // Token scales lie by quarter q of a warp's columns, so that a thread finds the ones of two column blocks in one
  // load: token 8j + 2q + e at q * kQuarter + 2j + e. The padding puts the quarters into different banks.
  static constexpr int kQuarter = kTokens / 4 + 4;
  uint8_t tokens[kStages][kTokenBytes];
  uint8_t weights[kStages][kWeightBytes];
  uint8_t result[kWarpgroups][kTokens * 128];  // a warpgroup's 64 channels of 16 bits, token by token
  // Steps whose token scales are there: the stages', or those of two windows more (ProduceTokenWindows).
  static constexpr int kScaleSteps = kFolds ? kStages + 2 * kScaleWindow - 1 : kStages;
  float token_scale[kScaleSteps][4 * kQuarter];
  float weight_scale[kStages][kChannels];
  // NibbleTables, twice: by half warps, so that the compiler keeps the words in registers. It would put what it knows
  // to be uniform into uniform ones and copy them before every use.
  alignas(16) uint32_t tables[2][4];
  uint64_t full[kStages];          // tokens, weights and scales are there
  uint64_t empty[kStages];         // the stage may be written (in both blocks where they share tokens)
  uint64_t residual[kWarpgroups];  // the residual is in `result`
  // Of weights with scales in powers of two: a table for each row and step, one for each k, and what the first tile's
  // scales are powers of two apart from.
  alignas(16) uint4 row_tables[kFolds ? kStages : 1][kFolds ? kChannels : 1];
  uint4 folded[kFolds ? 16 : 1];
  uint16_t first_base[kFolds ? kChannels : 1];
};

// The formats a kernel is made for.
template <bool kNibbles_, bool kE5M2_, bool kGroupTokens_, int kTokens_, int kWarpgroups_ = 2, bool kFolds_ = false>
struct Kind {
  static constexpr bool kNibbles = kNibbles_;          // weights are unpacked; otherwise they are e4m3
  static constexpr bool kE5M2 = kE5M2_;                // activations
  static constexpr bool kGroupTokens = kGroupTokens_;  // tokens have scales per group
  static constexpr int kTokens = kTokens_;
  static constexpr bool kFolds = kFolds_;  // weights' group scales are in their bytes; with kGroupTokens alone
  using Shared = fp8::Shared<kTokens, kWarpgroups_, kFolds>;
  using Reports = std::conditional_t<kFolds, WarpReports, StageReports>;
};

__device__ __forceinline__ NibbleTables LoadNibbleTables(uint32_t address) {
  const uint4 v = LoadShared16(address);
  return {{v.x, v.y, v.z, v.w}};
}

// What a block does of a tile.
struct Work {
  int first, body_end, last;  // its steps: the body's first ... body_end - 1, then outliers
  int64_t token;              // the tile's first
  int channel;                // the block's first
};

// `S` in this file is Shared, or what another kernel has for it.
template <class S>
__device__ __forceinline__ Work WorkOf(const Plan& plan, int tile, uint32_t rank) {
  int row, column;
  plan.tiles.Locate(tile, &row, &column);
  Work w;
  w.token = static_cast<int64_t>(row) * S::kTokens;
  const int steps = plan.body_steps + plan.outlier_steps;
  if (plan.split == 1) {
    w.channel = (2 * column + static_cast<int>(rank)) * S::kChannels;
    w.first = 0, w.last = steps;
  } else {
    const int part = (steps + plan.split - 1) / plan.split;
    w.channel = column * S::kChannels;
    w.first = min(static_cast<int>(rank) * part, steps), w.last = min(w.first + part, steps);
  }
  w.body_end = max(w.first, min(w.last, plan.body_steps));
  return w;
}

// Runs f(work) for each of the block's tiles.
template <class S, class F>
__device__ __forceinline__ void ForEachTile(const Plan& plan, uint32_t rank, F&& f) {
  const int clusters = gridDim.x / plan.cluster();
  for (int tile = blockIdx.x / plan.cluster(); tile < plan.tiles.count(); tile += clusters) {
    f(WorkOf<S>(plan, tile, rank));
  }
}

// One thread: the copy engine.
template <bool kNibbles, class S>
__device__ __forceinline__ void ProduceTiles(const Plan& plan, S& s, const CUtensorMap* token_map,
                                             const CUtensorMap* body_map, const CUtensorMap* outlier_map,
                                             uint32_t rank) {
  constexpr int kTokenBytes = S::kTokenBytes, kBodyRow = kNibbles ? kNibbleRow : kStep, kStages = S::kStages;
  const auto load_weights = [&](const Work& work, int step, int stage) {
    const bool body = step < work.body_end;
    BarrierArriveExpect(&s.full[stage], kTokenBytes + S::kChannels * (body ? kBodyRow : kStep));
    TensorLoad(body ? body_map : outlier_map, &s.full[stage], s.weights[stage],
               body ? step * kBodyRow : (step - plan.body_steps) * kStep, work.channel);
  };
  int early = 0;  // stages whose weights are requested before the kernels ahead in the stream are done
  if (plan.args.constant_weights) {
    const Work work = WorkOf<S>(plan, blockIdx.x / plan.cluster(), rank);
    for (; early < kStages && work.first + early < work.last; ++early) load_weights(work, work.first + early, early);
  }
  WaitForPriorKernelsIfAny();
  RingPosition<kStages> ring;
  ForEachTile<S>(plan, rank, [&](const Work& work) {
    const int token_row = static_cast<int>(work.token);
    for (int step = work.first; step < work.last; ++step, ring.Advance()) {
      const int k = step < work.body_end ? step * kStep : plan.args.body() + (step - plan.body_steps) * kStep;
      uint64_t* full = &s.full[ring.stage];
      if (early > 0) {
        --early;
      } else {
        BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
        load_weights(work, step, ring.stage);
      }
      if (plan.split == 1) {
        TensorLoadMulticast(token_map, full, s.tokens[ring.stage] + rank * (kTokenBytes / 2), k,
                            token_row + static_cast<int>(rank) * (S::kTokens / 2), 3);
      } else {
        TensorLoad(token_map, full, s.tokens[ring.stage], k, token_row);
      }
    }
  });
}

// The group that a step belongs to, of those of one side: counted, as a division a step would take the warps that
// multiply more time than the loads.
class GroupCount {
 public:
  __device__ __forceinline__ GroupCount(int steps_a_group, int first_step)
      : steps_(steps_a_group), group_(first_step / steps_a_group), step_(first_step % steps_a_group) {}
  __device__ __forceinline__ int group() const { return group_; }
  __device__ __forceinline__ void Advance() {
    if (++step_ == steps_) step_ = 0, ++group_;
  }

 private:
  int steps_, group_, step_;
};

// One warp: scales of the tokens, for every step, or where the body has one a token for its last step alone.
template <bool kGroupTokens, class S>
__device__ __forceinline__ void ProduceTokenScales(const Plan& plan, S& s, uint32_t rank) {
  constexpr int kTokens = S::kTokens;
  const GemmArgs& args = plan.args;
  RingPosition<S::kStages> ring;
  const int lane = threadIdx.x % 32, scales = args.a_scales();
  const int group_steps = kGroupTokens ? args.a_group_size / kStep : 1;
  float* const to = &s.token_scale[0][lane / 2 % 4 * S::kQuarter + 2 * (lane / 8) + lane % 2];
  ForEachTile<S>(plan, rank, [&](const Work& work) {
    const float* const first = args.a_scale + work.token * scales;
    int rows[kTokens / 32];  // where this lane's tokens begin; those behind the last one repeat it
#pragma unroll
    for (int i = 0; i < kTokens / 32; ++i) {
      rows[i] = static_cast<int>(min(static_cast<int64_t>(32 * i + lane), args.m - 1 - work.token)) * scales;
    }
    GroupCount count(group_steps, work.first);
    for (int step = work.first; step < work.last; ++step, ring.Advance(), count.Advance()) {
      const bool body = step < work.body_end;
      BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
      if (kGroupTokens || !body || step + 1 == work.body_end) {
        const float* column = first + (!body ? scales - 1 : kGroupTokens ? count.group() : 0);
        float* stage = to + ring.stage * 4 * S::kQuarter;
#pragma unroll
        for (int i = 0; i < kTokens / 32; ++i) CopyShared4(stage + 8 * i, column + rows[i]);
      }
      BarrierArriveCopies(&s.full[ring.stage]);
    }
  });
}

// Two warps of half the channels: scales of the weights. They come from memory four steps at a time, while those of the
// four steps before are handed out: a load takes longer than a step.
template <class S>
__device__ __forceinline__ void ProduceWeightScales(const Plan& plan, S& s, int helper, uint32_t rank) {
  constexpr int kBatch = 4, kRows = S::kChannels / 64;  // of a lane
  const GemmArgs& args = plan.args;
  RingPosition<S::kStages> ring;
  const int column = helper * (32 * kRows) + threadIdx.x % 32;
  const int group_steps = args.group_size ? args.group_size / kStep : plan.body_steps;
  ForEachTile<S>(plan, rank, [&](const Work& work) {
    int n[kRows];
    const uint16_t* rows[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      n[i] = min(work.channel + column + 32 * i, args.n - 1);
      rows[i] = args.b_scale + static_cast<int64_t>(n[i]) * args.b_scales();
    }
    GroupCount count(group_steps, work.first);
    uint16_t next[kBatch][kRows];
    const auto load = [&](int first) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j, count.Advance()) {
        if (first + j >= work.last) break;
        const bool body = first + j < work.body_end;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          next[j][i] = __ldg(body ? rows[i] + count.group() : args.b_outlier_scale + n[i]);
        }
      }
    };
    load(work.first);
    for (int first = work.first; first < work.last; first += kBatch) {
      uint16_t now[kBatch][kRows];
#pragma unroll
      for (int j = 0; j < kBatch * kRows; ++j) now[j / kRows][j % kRows] = next[j / kRows][j % kRows];
      load(first + kBatch);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (first + j >= work.last) break;
        const float factor = first + j < work.body_end ? plan.weight_factor : 1.0f;
        BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          s.weight_scale[ring.stage][column + 32 * i] = Widen(__ushort_as_half(now[j][i])) * factor;
        }
        BarrierArrive(&s.full[ring.stage]);
        ring.Advance();
      }
    }
  });
}

}  // namespace lowbit::cuda::fp8
