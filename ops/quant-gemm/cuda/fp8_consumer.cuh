// The warpgroups of the FP8 kernel that multiply.
#pragma once
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-gemm/cuda/fp8_results.cuh"

namespace lowbit::cuda::fp8 {

template <class K>
class Consumer {
  using Shared = typename K::Shared;
  // Tiles of up to 128 tokens take turns with two sets of sums: the next part's products are queued while a part's are
  // scaled. With 256, or three warpgroups, there are registers for one set and one step's operand.
  static constexpr bool kTurns = K::kTokens < 256 && Shared::kWarpgroups == 2;
  static constexpr int kColumns = kTurns ? 64 : K::kTokens / 2;  // tokens of one wgmma, a part of the tile
  static constexpr int kParts = K::kTokens / kColumns;
  static constexpr int kSums = kColumns / 2;  // of a thread and part
  static constexpr int kResults = kParts * kSums;
  static constexpr int kQuarter = Shared::kQuarter;
  static constexpr bool kScalesLast = K::kFolds || !K::kGroupTokens;  // some are the same for all of the body
  static constexpr int kMathThreads = 32 * Shared::kMathWarps;
  using Sums = float[kSums];
  using Scales = float[kSums / 2];
  using Operand = uint32_t[4][4];  // wgmma's left one, 32 channels each
  using Tables = NibbleTables[2];

 public:
  __device__ __forceinline__ Consumer(const Plan& plan, Shared& s, uint32_t rank)
      : plan_(plan),
        s_(s),
        rank_(rank),
        warpgroup_(__shfl_sync(~0u, threadIdx.x / kWarpgroup, 0) - 1),  // known to be the same in a warp
        first_tokens_(WgmmaDescriptor(s.tokens[0])),
        first_weights_(WgmmaDescriptor(s.weights[0] + warpgroup_ * 64 * kStep)) {
    const int lane = threadIdx.x % 32, row = FirstChannel(warpgroup_);
    nibbles_ = KeepShuffled(SharedAddress(s.weights[0]) + row * kNibbleRow + (((row >> 1) & 3) << 4) + 2 * (lane % 4));
    if constexpr (K::kFolds) {
      row_tables_ = KeepShuffled(SharedAddress(s.row_tables[0] + row));
    } else {
      tables_ = LoadNibbleTables(SharedAddress(s.tables[lane / 16]));
    }
    reports_ = typename K::Reports(s.empty, plan.split == 1, rank);
    token_scales_ = KeepShuffled(SharedAddress(s.token_scale[0] + lane % 4 * kQuarter));
    weight_scales_ = SharedAddress(s.weight_scale[0] + row);
    if constexpr (!K::kFolds) weight_scales_ = KeepShuffled(weight_scales_);  // else used once a tile
  }

  __device__ __forceinline__ void Run(const CUtensorMap* y_map, const CUtensorMap* residual_map) {
    WithType(plan_.args.type, [&](auto zero) { RunTyped<decltype(zero)>(y_map, residual_map); });
  }

 private:
  template <class T>
  __device__ __forceinline__ void RunTyped(const CUtensorMap* y_map, const CUtensorMap* residual_map) {
    constexpr bool kStaged = ResultWriter<T>::kStaged;
    uint8_t* staging = s_.result[warpgroup_];
    const bool leader = threadIdx.x % kWarpgroup == 0;
    const bool residual = plan_.args.residual != nullptr;
    const int part = plan_.split > 1 ? K::kTokens / plan_.split : K::kTokens;  // tokens that this block writes
    const int from = plan_.split > 1 ? static_cast<int>(rank_) * part : 0;
    uint32_t parity = 0;
    ForEachTile<Shared>(plan_, rank_, [&](const Work& work) {
      const int x = 2 * (work.channel + warpgroup_ * 64), y = static_cast<int>(work.token) + from;
      if (kStaged && leader) {
        TensorStoreWaitRead();  // the last tile's results have left
        if (residual) {
          BarrierArriveExpect(&s_.residual[warpgroup_], part * 128);
          TensorLoad(residual_map, &s_.residual[warpgroup_], staging + from * 128, x, y);
        }
      }
      float result[kResults];
#pragma unroll
      for (int i = 0; i < kResults; ++i) result[i] = 0.0f;
      Body(work, result);
      Outliers(work, result);
      if (plan_.split > 1) Publish(result);
      if (kStaged && residual) BarrierWait(&s_.residual[warpgroup_], parity);
      if (kStaged && !residual) NamedBarrier(1 + warpgroup_, kWarpgroup);
      const ResultWriter<T> writer(plan_.args, work, warpgroup_, staging);
      const auto all = [&](auto&& f) {
#pragma unroll
        for (int j = 0; j < K::kTokens / 8; j += 2) f(j, reinterpret_cast<float(&)[8]>(result[4 * j]));
      };
      if (plan_.split == 1) {
        if (writer.adds()) all([&](int j, float(&v)[8]) { writer.Add(j, v); });
        all([&](int j, float(&v)[8]) { writer.Store(j, v); });
      } else {
        for (int j = from / 8; j < (from + part) / 8; j += 2) {
          float v[8];
          Collect(j, v);
          writer.Write(j, v);
        }
      }
      if (kStaged) {
        FenceAsyncProxy();
        NamedBarrier(1 + warpgroup_, kWarpgroup);
        if (leader) {
          TensorStore(y_map, staging + from * 128, x, y);
          TensorStoreCommit();
        }
      }
      parity ^= 1;
    });
    if (kStaged && leader) TensorStoreWaitRead();
  }

  __device__ __forceinline__ void Advance() {
    ring_.Advance();
    if constexpr (K::kFolds) scales_.Advance();
  }
  // Of the tokens' scales of the step at the ring's position.
  __device__ __forceinline__ int Slot() const { return K::kFolds ? scales_.stage : ring_.stage; }

  // This thread's nibbles of the stage at the ring's position, four in each register; e4m3 weights are only waited for.
  __device__ __forceinline__ void Load(Operand& a) const {
    BarrierWait(&s_.full[ring_.stage], ring_.parity);
    if constexpr (K::kNibbles) {
      const uint32_t from = nibbles_ + ring_.stage * Shared::kWeightBytes;
#pragma unroll
      for (int b = 0; b < 4; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // rows r and r + 8, then both again 16 channels on
          a[b][i] = LoadShared2((from ^ (b << 4)) + i % 2 * 8 * kNibbleRow + i / 2 * 8);
        }
      }
    }
  }
  // Of rows r and r + 8, for the same stage.
  __device__ __forceinline__ void LoadTables(Tables& tables) const {
    if constexpr (K::kFolds) {
      const uint32_t from = row_tables_ + ring_.stage * static_cast<int>(sizeof(s_.row_tables[0]));
      tables[0] = LoadNibbleTables(from), tables[1] = LoadNibbleTables(from + 8 * sizeof(uint4));
    }
  }
  __device__ __forceinline__ void Decode(Operand& a, const Tables& tables) const {
    if constexpr (K::kNibbles) {
#pragma unroll
      for (int b = 0; b < 4; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[b][i] = DecodeNibbles(K::kFolds ? tables[i % 2] : tables_, a[b][i]);
      }
    }
  }

  __device__ __forceinline__ uint64_t Tokens(int stage, int part) const {
    return first_tokens_ + stage * (Shared::kTokenBytes / 16) + part * (kColumns * kStep / 16);
  }
  __device__ __forceinline__ uint64_t Weights(int stage) const {
    return first_weights_ + stage * (Shared::kWeightBytes / 16);
  }

  __device__ __forceinline__ void Release(int stage) const { reports_(stage); }

  __device__ __forceinline__ void Body(const Work& work, float (&result)[kResults]) {
    int left = work.body_end - work.first;
    if (left <= 0) return;
    Operand even;
    Tables tables;
    Load(even);
    LoadTables(tables);
    Decode(even, tables);
    if constexpr (kTurns) {
      Operand odd;
      Sums x, y;
      Sums& u = kParts == 1 ? y : x;
      Sums& v = kParts == 1 ? x : y;
      Multiply(ring_.stage, 0, even, x);
      // Two steps a turn, as operands and perhaps sums change places. With one exit the compiler does not see that sums
      // are used only behind their wait, and it would wait after every wgmma (C7514).
      for (;; left -= 2) {
        if (left == 1) {
          RunStep<false>(even, odd, x, y, result);
          break;
        }
        RunStep<true>(even, odd, x, y, result);
        if (left == 2) {
          RunStep<false>(odd, even, u, v, result);
          break;
        }
        RunStep<true>(odd, even, u, v, result);
      }
    } else {
      for (; left > 1; --left) RunLargeStep<true>(even, result);
      RunLargeStep<false>(even, result);
    }
    if constexpr (kScalesLast) {  // the last step has the rows' or the tokens' scales
      const int stage = (ring_.stage + Shared::kStages - 1) % Shared::kStages;
      float weights[2];
      if constexpr (K::kFolds) LoadWeightScales(stage, weights);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        Scales tokens;
        if constexpr (!K::kFolds) LoadTokenScales(stage, part, tokens);
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          result[part * kSums + i] *= K::kFolds ? weights[i / 2 % 2] : tokens[i / 4 * 2 + i % 2];
        }
      }
      Release(stage);
    }
  }

  __device__ __forceinline__ void Multiply(int stage, int part, const Operand& a, Sums& sum) const {
    WgmmaFence();
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const uint64_t columns = Tokens(stage, part) + 2 * b, rows = Weights(stage) + 2 * b;
      if constexpr (K::kNibbles) {
        K::kE5M2 ? WgmmaE4M3E5M2(sum, a[b], columns, b > 0) : WgmmaE4M3(sum, a[b], columns, b > 0);
      } else {
        K::kE5M2 ? WgmmaE4M3E5M2(sum, rows, columns, b > 0) : WgmmaE4M3(sum, rows, columns, b > 0);
      }
    }
    WgmmaCommit();
  }

  // The step at the ring's position, whose operand is `now` and whose first part is being multiplied into x; leaves the
  // next step like that (in x, or in y if a step is one part), with its operand in `next`. Loads from shared memory
  // queue up behind wgmma, so what a part needs is loaded before the next one is started.
  template <bool kMore>
  __device__ __forceinline__ void RunStep(Operand& now, Operand& next, Sums& x, Sums& y, float (&result)[kResults]) {
    const int stage = ring_.stage, slot = Slot();
    float weights[2];
    Scales tokens;
    Tables tables;
    if constexpr (!K::kFolds) LoadWeightScales(stage, weights);
    if constexpr (K::kGroupTokens) LoadTokenScales(slot, 0, tokens);
    Advance();
    if constexpr (kMore) {
      Load(next);
      LoadTables(tables);
    }
    if constexpr (kParts == 2) {
      Multiply(stage, 1, now, y);
      WgmmaWait<1>();
      SumsAreReady(x);
      Promote(0, x, tokens, weights, result);
      if constexpr (K::kGroupTokens) LoadTokenScales(slot, 1, tokens);
    }
    Sums& last = kParts == 1 ? x : y;
    if constexpr (kMore) {
      Decode(next, tables);
      Multiply(ring_.stage, 0, next, kParts == 1 ? y : x);
      WgmmaWait<1>();
    } else {
      WgmmaWait<0>();
    }
    SumsAreReady(last);
    Promote(kParts - 1, last, tokens, weights, result);
    if (kMore || !kScalesLast) Release(stage);
  }

  // result + sum * weight * token, less those that all of the body shares. Registers are read beside the tensor cores,
  // so two operands and one shared with neighbours cost less than new ones: the sum is scaled first. With 64 tokens a
  // step waits for its sums, and the scales' product is ready before.
  __device__ __forceinline__ static float Scaled(float sum, float weight, float token, float result) {
    if constexpr (K::kFolds) return fmaf(sum, token, result);
    if constexpr (!K::kGroupTokens) return fmaf(sum, weight, result);
    if constexpr (kResults == 32) return fmaf(sum, weight * token, result);
    return fmaf(sum * weight, token, result);
  }

  __device__ __forceinline__ void Promote(int part, const Sums& sum, const Scales& tokens, const float (&weights)[2],
                                          float (&result)[kResults]) const {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      float& r = result[part * kSums + i];
      r = Scaled(sum[i], weights[i / 2 % 2], tokens[i / 4 * 2 + i % 2], r);
    }
  }

  // The same with one set of sums and one operand. With kMore at run time results moved to the stack in every step.
  template <bool kMore>
  __device__ __forceinline__ void RunLargeStep(Operand& a, float (&result)[kResults]) {
    const int stage = ring_.stage, slot = Slot();
    float weights[2];
    Sums sum;
    Tables tables;
    if constexpr (!K::kFolds) LoadWeightScales(stage, weights);
    Advance();
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint32_t from = token_scales_ + slot * (16 * kQuarter) + part * kColumns;
      float4 first[2];  // as many as there are registers for; the others are under way when these are used up
      if constexpr (K::kGroupTokens) {
        first[0] = LoadSharedFloat4(from), first[1] = LoadSharedFloat4(from + 16);
      }
      Multiply(stage, part, a, sum);
      WgmmaWait<0>();
      SumsAreReady(sum);
      if constexpr (kMore) {
        if (part + 1 == kParts) Load(a);
      }
#pragma unroll
      for (int i = 0; i < kSums; i += 8) {
        float tokens[4] = {};
        if constexpr (kMore) {  // half of the sums' registers are free
          if (part + 1 == kParts && i == kSums / 2) LoadTables(tables);
        }
        if constexpr (K::kGroupTokens) {
          const float4 t = i < 16 ? first[i / 8] : LoadSharedFloat4(from + 2 * i);
          tokens[0] = t.x, tokens[1] = t.y, tokens[2] = t.z, tokens[3] = t.w;
        }
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          float& r = result[part * kSums + i + e];
          r = Scaled(sum[i + e], weights[e / 2 % 2], tokens[e / 4 * 2 + e % 2], r);
        }
      }
    }
    if (kMore || !kScalesLast) Release(stage);
    if constexpr (kMore) Decode(a, tables);
  }

  __device__ __forceinline__ void LoadWeightScales(int stage, float (&weights)[2]) const {
    const uint32_t from = weight_scales_ + stage * (4 * Shared::kChannels);
    weights[0] = LoadSharedFloat(from), weights[1] = LoadSharedFloat(from + 32);
  }
  // tokens[2j + e]: of token 8j + 2q + e.
  __device__ __forceinline__ void LoadTokenScales(int slot, int part, Scales& tokens) const {
    const uint32_t from = token_scales_ + slot * (16 * kQuarter) + part * kColumns;
#pragma unroll
    for (int i = 0; i < kSums / 2; i += 4) {
      const float4 t = LoadSharedFloat4(from + 4 * i);
      tokens[i] = t.x, tokens[i + 1] = t.y, tokens[i + 2] = t.z, tokens[i + 3] = t.w;
    }
  }

  __device__ __forceinline__ void Outliers(const Work& work, float (&result)[kResults]) {
    for (int step = work.body_end; step < work.last; ++step) {
      const int stage = ring_.stage, slot = Slot();
      BarrierWait(&s_.full[stage], ring_.parity);
      float weights[2];
      LoadWeightScales(stage, weights);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        int sum[kSums];
        WgmmaFence();
#pragma unroll
        for (int b = 0; b < 4; ++b) WgmmaS8(sum, Weights(stage) + 2 * b, Tokens(stage, part) + 2 * b, b > 0);
        WgmmaCommit();
        WgmmaWait<0>();
        SumsAreReady(sum);
        Scales tokens;
        LoadTokenScales(slot, part, tokens);
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          float& r = result[part * kSums + i];
          r = fmaf(static_cast<float>(sum[i]), tokens[i / 4 * 2 + i % 2] * weights[i / 2 % 2], r);
        }
      }
      Release(stage);
      Advance();
    }
  }

  __device__ __forceinline__ float4* Published() const { return reinterpret_cast<float4*>(s_.tokens[0]); }

  __device__ __forceinline__ void Publish(const float (&result)[kResults]) const {
    const int thread = threadIdx.x - kWarpgroup;
    NamedBarrier(1 + Shared::kWarpgroups, kMathThreads);  // the other warpgroup no longer reads the stages
#pragma unroll
    for (int j = 0; j < kResults / 4; ++j) {
      Published()[j * kMathThreads + thread] =
          make_float4(result[4 * j], result[4 * j + 1], result[4 * j + 2], result[4 * j + 3]);
    }
    ClusterSync();
  }

  // Column blocks j and j + 1: sums over the cluster, block by block.
  __device__ __forceinline__ void Collect(int j, float (&v)[8]) const {
    const float4* from = Published() + j * kMathThreads + threadIdx.x - kWarpgroup;
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = 0.0f;
#pragma unroll 4
    for (int block = 0; block < plan_.split; ++block) {
      const float4* remote = RemoteShared(from, block);
      const float4 x = remote[0], y = remote[kMathThreads];
      v[0] += x.x, v[1] += x.y, v[2] += x.z, v[3] += x.w;
      v[4] += y.x, v[5] += y.y, v[6] += y.z, v[7] += y.w;
    }
  }

  const Plan& plan_;
  Shared& s_;
  const uint32_t rank_;
  const int warpgroup_;
  const uint64_t first_tokens_, first_weights_;
  NibbleTables tables_;                              // of all rows, where group scales are not in them
  uint32_t nibbles_, token_scales_, weight_scales_;  // this thread's in the first stage
  uint32_t row_tables_;
  typename K::Reports reports_;
  RingPosition<Shared::kStages> ring_;
  RingPosition<Shared::kScaleSteps> scales_;  // of the tokens, where they are apart from the stages
};

}  // namespace lowbit::cuda::fp8
