// The warpgroups of the folding FP8 kernel that multiply: a tile's sums stay in the tensor cores' registers.
#pragma once
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-gemm/cuda/fp8_folded_tiles.cuh"
#include "ops/quant-gemm/cuda/fp8_results.cuh"

namespace lowbit::cuda::fp8::folded {

template <bool kE5M2>
class Consumer {
  static constexpr int kSums = Shared::kTokens / 2;  // of a thread
  using Sums = float[kSums];
  using Slice = uint32_t[4];       // wgmma's left operand, 32 channels
  using Operand = uint32_t[4][4];  // of a step

 public:
  __device__ __forceinline__ Consumer(const Plan& plan, Shared& s, uint32_t rank)
      : plan_(plan),
        s_(s),
        rank_(rank),
        warpgroup_(__shfl_sync(~0u, threadIdx.x / kWarpgroup, 0) - 1),  // known to be the same in a warp
        first_tokens_(WgmmaDescriptor(s.tokens[0])) {
    const int lane = threadIdx.x % 32;
    row_ = FirstChannel(warpgroup_);
    nibbles_ = SharedAddress(s.weights[0]) + row_ * kNibbleRow + (((row_ >> 1) & 3) << 4) + 2 * (lane % 4);
    tables_ = SharedAddress(s.tables[0][0]) + row_ * static_cast<int>(sizeof(uint4));
    reports_ = StageReports(s.empty, true, rank);
  }

  __device__ __forceinline__ void Run(const CUtensorMap* y_map, const CUtensorMap* residual_map) {
    FindFirstBases(plan_, s_, threadIdx.x / 32 - kWarpgroup / 32, rank_);
    WaitForPriorKernelsIfAny();
    WithType(plan_.args.type, [&](auto zero) { RunTyped<decltype(zero)>(y_map, residual_map); });
  }

 private:
  template <class T>
  __device__ __forceinline__ void RunTyped(const CUtensorMap* y_map, const CUtensorMap* residual_map) {
    const bool leader = threadIdx.x % kWarpgroup == 0;
    ForEachTile<Shared>(plan_, rank_, [&](const Work& work) {
      if (ResultWriter<T>::kStaged && leader && plan_.args.residual) {
        LoadResidual(residual_map, work, 0);
        LoadResidual(residual_map, work, 1);
      }
      Sums sum;
      Multiply(sum);
      Write<T>(work, y_map, residual_map, sum);
    });
    if (ResultWriter<T>::kStaged && leader) TensorStoreWaitRead();
  }

  // One thread: the residual of a part of a tile's tokens to where the results will be.
  __device__ __forceinline__ void LoadResidual(const CUtensorMap* map, const Work& work, int part) const {
    uint64_t* barrier = &s_.residual[warpgroup_][part % 2];
    TensorStoreWaitRead();  // what was there has left
    BarrierArriveExpect(barrier, sizeof(s_.result[0][0]));
    TensorLoad(map, barrier, s_.result[warpgroup_][part % 2], 2 * (work.channel + warpgroup_ * 64),
               static_cast<int>(work.token) + part * Shared::kResultTokens);
  }

  template <class T>
  __device__ __forceinline__ void Write(const Work& work, const CUtensorMap* y_map, const CUtensorMap* residual_map,
                                        const Sums& sum) {
    constexpr bool kStaged = ResultWriter<T>::kStaged;
    constexpr int kPart = Shared::kResultTokens;
    const bool leader = threadIdx.x % kWarpgroup == 0, residual = plan_.args.residual != nullptr;
    const float rows[2] = {s_.row_scale[scales_.stage][row_], s_.row_scale[scales_.stage][row_ + 8]};
    const float* tokens = s_.token_scale[scales_.stage] + threadIdx.x % 4 * Shared::kQuarter;
#pragma unroll
    for (int p = 0; p < Shared::kTokens / kPart; ++p) {
      uint8_t* staging = s_.result[warpgroup_][p % 2];
      if (kStaged && residual) {
        BarrierWait(&s_.residual[warpgroup_][p % 2], p / 2);
      } else if (kStaged) {
        if (leader) TensorStoreWaitRead<1>();
        NamedBarrier(1 + warpgroup_, kWarpgroup);
      }
      Work part = work;
      part.token += p * kPart;
      const ResultWriter<T> writer(plan_.args, part, warpgroup_, staging);
#pragma unroll
      for (int j = 0; j < kPart / 8; j += 2) {
        const float4 t = *reinterpret_cast<const float4*>(tokens + p * (kPart / 4) + 2 * j);
        const float token[4] = {t.x, t.y, t.z, t.w};
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          v[i] = sum[p * (kPart / 2) + 4 * j + i] * (token[i / 4 * 2 + i % 2] * rows[i / 2 % 2]);
        }
        writer.Write(j, v);
      }
      if constexpr (kStaged) {
        FenceAsyncProxy();
        NamedBarrier(1 + warpgroup_, kWarpgroup);
        if (!leader) continue;
        TensorStore(y_map, staging, 2 * (work.channel + warpgroup_ * 64), static_cast<int>(part.token));
        TensorStoreCommit();
        if (residual && p < 2) LoadResidual(residual_map, work, p + 2);
      }
    }
    scales_.Advance();
  }

  // This thread's nibbles of 32 channels of the stage at the ring's position.
  __device__ __forceinline__ void Load(Slice& raw, int b) const {
    const uint32_t from = (nibbles_ + ring_.stage * Shared::kNibbleBytes) ^ (b << 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // rows r and r + 8, then both again 16 channels on
      raw[i] = LoadShared2(from + i % 2 * 8 * kNibbleRow + i / 2 * 8);
    }
  }
  // The empty asm keeps the compiler from decoding before a wait, into registers that wgmma still reads.
  __device__ __forceinline__ static void Decode(Slice& a, Slice& raw, const NibbleTables (&tables)[2]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(raw[i])::"memory");
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = DecodeNibbles(tables[i % 2], raw[i]);
  }

  // Tables of rows r and r + 8 for a step of the tile. They are given back when they have been used.
  __device__ __forceinline__ void LoadTables(int step, NibbleTables (&tables)[2]) const {
    if (step % kTableSteps == 0) BarrierWait(&s_.tables_full[batch_.stage], batch_.parity);
    const uint32_t from = tables_ + (batch_.stage * kTableSteps + step % kTableSteps) * kChannels * sizeof(uint4);
    tables[0] = LoadNibbleTables(from), tables[1] = LoadNibbleTables(from + 8 * sizeof(uint4));
  }
  __device__ __forceinline__ void ReleaseTables(int step) {
    if (step % kTableSteps != kTableSteps - 1 && step + 1 != plan_.body_steps) return;
    BarrierArrive(&s_.tables_empty[batch_.stage]);  // every lane: see StageReports
    batch_.Advance();
  }

  // To both blocks, which write into each other's stages.
  __device__ __forceinline__ void Release(int stage) const { reports_(stage); }

  // Starts the products of 32 channels.
  __device__ __forceinline__ void Start(int stage, int b, const Slice& a, bool add, Sums& sum) const {
    const uint64_t columns = first_tokens_ + stage * (Shared::kTokenBytes / 16) + 2 * b;
    WgmmaFence();
    kE5M2 ? WgmmaE4M3E5M2(sum, a, columns, add) : WgmmaE4M3(sum, a, columns, add);
    WgmmaCommit();
  }

  // A tile's sums.
  __device__ __forceinline__ void Multiply(Sums& sum) {
    Operand even, odd;
    NibbleTables tables[2];
    BarrierWait(&s_.full[ring_.stage], ring_.parity);
    LoadTables(0, tables);
#pragma unroll
    for (int b = 0; b < 4; ++b) Load(odd[b], b);
#pragma unroll
    for (int b = 0; b < 4; ++b) Decode(even[b], odd[b], tables);
    ReleaseTables(0);
    int step = 0;
    for (; step + 1 < plan_.body_steps; step += 2) {
      RunStep(step, even, odd, sum);
      RunStep(step + 1, odd, even, sum);
    }
    if (step < plan_.body_steps) RunStep(step, even, odd, sum);
    WgmmaWait<0>();
    SumsAreReady(sum);
    Release((ring_.stage + Shared::kStages - 1) % Shared::kStages);
  }

  // Multiplies the stage at the ring's position, whose operand is `now`, and makes the next one's meanwhile, a quarter
  // at a time.
  __device__ __forceinline__ void RunStep(int step, const Operand& now, Operand& next, Sums& sum) {
    const int stage = ring_.stage;
    const bool more = step + 1 < plan_.body_steps;
    NibbleTables tables[2];
    Operand raw;
    ring_.Advance();
    Start(stage, 0, now[0], step > 0, sum);
    if (more) {
      BarrierWait(&s_.full[ring_.stage], ring_.parity);
      LoadTables(step + 1, tables);
      Load(raw[0], 0);
      Load(raw[1], 1);
    }
    Start(stage, 1, now[1], true, sum);
    WgmmaWait<2>();  // the step before is done with `next`
    if (step > 0) Release(stage ? stage - 1 : Shared::kStages - 1);
    if (more) {
      Decode(next[0], raw[0], tables);
      Load(raw[2], 2);
      Decode(next[1], raw[1], tables);
      Load(raw[3], 3);
    }
    Start(stage, 2, now[2], true, sum);
    if (more) Decode(next[2], raw[2], tables);
    Start(stage, 3, now[3], true, sum);
    if (more) {
      Decode(next[3], raw[3], tables);
      ReleaseTables(step + 1);
    }
  }

  const Plan& plan_;
  Shared& s_;
  const uint32_t rank_;
  const int warpgroup_;
  const uint64_t first_tokens_;
  int row_;
  uint32_t nibbles_, tables_;
  StageReports reports_;
  RingPosition<Shared::kStages> ring_;
  RingPosition<Shared::kTables> batch_;
  RingPosition<Shared::kScales> scales_;
};

}  // namespace lowbit::cuda::fp8::folded
