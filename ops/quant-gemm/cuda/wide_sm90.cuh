// Products with the weights as wgmma's left operand: the frame that s8_sm90.cu and weight_only_sm90.cu share.
//
// A block computes 128 output channels x kTokens tokens, transposed, because few tokens then make narrow tiles and
// because only the left operand may come from registers, where nibbles are unpacked.
//
//   warps 0 ... 7   two warpgroups, 64 channels each
//   warp 8          copy engine
//
// With few tiles the blocks of a cluster divide the input channels of one tile and add up their sums by distributed
// shared memory; otherwise a cluster's two blocks have neighbouring channels and load half of the tokens each, for
// both.
#pragma once
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-gemm/cuda/fp8_results.cuh"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda::wide {

constexpr int kChannels = 128;  // output channels of a block
constexpr int kTokenRow = 128;  // bytes of a token in a stage
constexpr int kMathWarps = 8;
constexpr int kMathThreads = 2 * kWarpgroup, kThreads = kMathThreads + kWarpgroup;

struct Plan {
  GemmArgs args;
  TileOrder tiles;  // rows: token tiles; columns: what a cluster has along the output channels
  int split = 1;    // blocks of a cluster that divide the input channels; 1: two blocks share the tokens
  int tail = 0;     // with 1: pairs of tiles, the last ones, whose input channels two blocks divide all the same
  int steps = 0;    // stages of a tile
  int group_steps = 1;
  uint32_t mask = 0, flip = 0;  // Math's; as parameters, because one instruction takes no two constants

  __device__ __forceinline__ int cluster() const { return split > 1 ? split : kClusterBlocks; }
};

// A kernel's kinds of operands. `Math` has Type (of results), Sum, kStepChannels, kTokenElement (bytes), kWeightRow
// (bytes of a weight row in a stage), Scales and Body.
template <class Math, int kTokens>
struct alignas(1024) Shared {
  static constexpr int kPart = kTokens == 256 ? 128 : kTokens == 240 ? 80 : kTokens;  // tokens written at a time
  static constexpr int kHalf = kTokens / 2, kMostSplit = kTokens > 128 ? 2 : 3;
  static constexpr int kTokenTile = kTokens * kTokenRow, kWeightTile = kChannels * Math::kWeightRow;
  static constexpr int kResult = sizeof(typename Math::Type) == 2 ? kPart * 128 : 128;
  static constexpr int kStages = (225 * 1024 - 2 * kResult) / (kTokenTile + kWeightTile);
  uint8_t tokens[kStages][kTokenTile];
  uint8_t weights[kStages][kWeightTile];
  uint8_t result[2][kResult];  // a warpgroup's 64 channels of 16 bits, token by token
  uint64_t full[kStages], empty[kStages], residual[2];
  uint64_t stages_left, received;  // with a divided K: nobody reads stages any more; the other blocks' sums are there
};

// Whether a kernel's last tiles can be divided: results of half a tile are written at once. (A kernel that asks for
// each tile whether it is divided is slower, with 64 tokens by a tenth.)
template <int kTokens>
constexpr bool kHasTail = kTokens == 256;

// A block's part of a tile.
struct Work {
  int first, last;  // steps
  int64_t token;
  int channel;
  bool tail;  // one of those that two blocks divide
};
// Whether the blocks of the cluster have parts of the input channels.
template <int kTokens>
__device__ __forceinline__ bool Divided(const Plan& plan, const Work& work) {
  return plan.split > 1 || (kHasTail<kTokens> && work.tail);
}

template <int kTokens, class F>
__device__ __forceinline__ void ForEachTile(const Plan& plan, uint32_t rank, F&& f) {
  const int clusters = gridDim.x / plan.cluster(), part = static_cast<int>(rank);
  const bool all = plan.split == 1;
  if constexpr (!kHasTail<kTokens>) {
    for (int tile = blockIdx.x / plan.cluster(); tile < plan.tiles.count(); tile += clusters) {
      int row, column;
      plan.tiles.Locate(tile, &row, &column);
      f(Work{all ? 0 : plan.steps * part / plan.split, all ? plan.steps : plan.steps * (part + 1) / plan.split,
             static_cast<int64_t>(row) * kTokens, (all ? kClusterBlocks * column + part : column) * kChannels, false});
    }
  } else {
    const int whole = plan.tiles.count() - plan.tail, cluster = blockIdx.x / plan.cluster();
    for (int tile = cluster;; tile += clusters) {
      const bool tail = tile >= whole;
      if (tail && cluster >= kClusterBlocks * plan.tail) break;
      int row, column;
      plan.tiles.Locate(tail ? whole + cluster / kClusterBlocks : tile, &row, &column);
      const int blocks = tail ? kClusterBlocks : plan.split, step = blocks == 1 ? 0 : part;
      if (all) column = kClusterBlocks * column + (tail ? cluster % kClusterBlocks : part);
      f(Work{plan.steps * step / blocks, plan.steps * (step + 1) / blocks, static_cast<int64_t>(row) * kTokens,
             column * kChannels, tail});
      if (tail) break;
    }
  }
}

// One thread. Constant weights of the first stages are asked for before the kernels ahead in the stream are done.
template <class Math, int kTokens>
__device__ __forceinline__ void Produce(const Plan& plan, Shared<Math, kTokens>& s, const CUtensorMap* token_map,
                                        const CUtensorMap* weight_map, uint32_t rank) {
  using S = Shared<Math, kTokens>;
  RingPosition<S::kStages> ring;
  const auto load_weights = [&](int stage, int step, const Work& work) {
    BarrierArriveExpect(&s.full[stage], S::kTokenTile + S::kWeightTile);
    TensorLoad(weight_map, &s.full[stage], s.weights[stage], step * Math::kWeightRow, work.channel);
  };
  bool started = false;
  int loaded = 0;  // stages whose weights are on their way
  ForEachTile<kTokens>(plan, rank, [&](const Work& work) {
    if (!started) {
      if (plan.args.constant_weights) {
        loaded = min(S::kStages, work.last - work.first);
        for (int i = 0; i < loaded; ++i) load_weights(i, work.first + i, work);
      }
      WaitForPriorKernelsIfAny();
      started = true;
    }
    const int token_row = static_cast<int>(work.token);
    for (int step = work.first; step < work.last; ++step, ring.Advance()) {
      uint64_t* full = &s.full[ring.stage];
      if (loaded > 0) {
        --loaded;
      } else {
        BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
        load_weights(ring.stage, step, work);
      }
      if (!Divided<kTokens>(plan, work)) {
        TensorLoadMulticast(token_map, full, s.tokens[ring.stage] + rank * (S::kTokenTile / kClusterBlocks),
                            step * kTokenRow, token_row + static_cast<int>(rank) * (kTokens / kClusterBlocks),
                            (1 << kClusterBlocks) - 1);
        continue;
      }
      for (int part = 0; part < kClusterBlocks; ++part) {
        TensorLoad(token_map, full, s.tokens[ring.stage] + part * (S::kTokenTile / kClusterBlocks), step * kTokenRow,
                   token_row + part * (kTokens / kClusterBlocks));
      }
    }
  });
}

template <class Math, int kTokens>
class Consumer {
  using S = Shared<Math, kTokens>;
  using T = typename Math::Type;
  using Sum = typename Math::Sum;
  static constexpr int kSums = kTokens / 2;  // of a thread

 public:
  __device__ __forceinline__ Consumer(const Plan& plan, S& s, uint32_t rank)
      : plan_(plan),
        s_(s),
        rank_(rank),
        warpgroup_(__shfl_sync(~0u, threadIdx.x / kWarpgroup, 0)),  // known to be the same in a warp
        row_(fp8::FirstChannel(warpgroup_)),
        first_tokens_(WgmmaDescriptor(s.tokens[0])),
        first_weights_(WgmmaDescriptor(s.weights[0] + warpgroup_ * 64 * Math::kWeightRow)) {
    const int lane = threadIdx.x % 32;
    releases_ = lane < (plan.split == 1 ? kClusterBlocks : 1);
    empty_ = ClusterAddress(s.empty, plan.split == 1 ? lane % kClusterBlocks : rank);
  }

  __device__ __forceinline__ void Run(const CUtensorMap* y_map, const CUtensorMap* residual_map) {
    if (!plan_.args.constant_weights) WaitForPriorKernelsIfAny();  // their scales are read first
    ForEachTile<kTokens>(plan_, rank_, [&](const Work& work) {
      const bool divided = Divided<kTokens>(plan_, work);
      if (kHasTail<kTokens> && divided) empty_ = ClusterAddress(s_.empty, rank_);
      if (!divided) {
        FetchResidual(residual_map, work, 0, S::kPart);
      } else if (rank_ < 2) {
        FetchResidual(residual_map, work, static_cast<int>(rank_) * S::kHalf, S::kHalf);
      }
      Sum sum[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] = 0;
      Math::Body(*this, work, sum);
      if constexpr (S::kHalf % 16 == 0) {
        if (divided) {
          SendHalves(sum);
          if (rank_ == 0) WriteHalf<0>(y_map, work, sum);
          if (rank_ == 1) WriteHalf<1>(y_map, work, sum);
          return;
        }
      }
#pragma unroll
      for (int at = 0; at < kTokens; at += S::kPart) {
        if (at > 0) FetchResidual(residual_map, work, at, S::kPart);
        Write<S::kPart>(y_map, work, at, [&](int j, Sum(&v)[8]) {
#pragma unroll
          for (int i = 0; i < 8; ++i) v[i] = sum[(at / 8 + j) * 4 + i];
        });
      }
    });
    if (kStaged && leader()) TensorStoreWaitRead();
  }

  // For Math::Body.
  __device__ __forceinline__ const Plan& plan() const { return plan_; }
  __device__ __forceinline__ int row() const { return row_; }
  __device__ __forceinline__ int stage() const { return ring_.stage; }
  __device__ __forceinline__ void Advance() { ring_.Advance(); }
  __device__ __forceinline__ const RingPosition<S::kStages>& ring() const { return ring_; }
  __device__ __forceinline__ void WaitFull() const { WaitFull(ring_); }
  __device__ __forceinline__ void WaitFull(const RingPosition<S::kStages>& at) const {
    BarrierWait(&s_.full[at.stage], at.parity);
  }
  __device__ __forceinline__ uint64_t Tokens() const { return first_tokens_ + ring_.stage * (S::kTokenTile / 16); }
  __device__ __forceinline__ uint64_t Weights() const { return first_weights_ + ring_.stage * (S::kWeightTile / 16); }
  __device__ __forceinline__ const uint8_t* WeightRow(int stage, int more) const {
    return s_.weights[stage] + (row_ + more) * Math::kWeightRow;
  }
  __device__ __forceinline__ int Before(int stage) const { return stage == 0 ? S::kStages - 1 : stage - 1; }
  // To every block that writes into this one's stages.
  __device__ __forceinline__ void Release(int stage) const {
    __syncwarp();
    if (releases_) BarrierArriveCluster(empty_ + stage * static_cast<int>(sizeof(uint64_t)));
  }

 private:
  static_assert(kTokens % S::kPart == 0 && S::kPart % 16 == 0);
  static constexpr bool kStaged = fp8::ResultWriter<T>::kStaged;
  __device__ __forceinline__ bool leader() const { return threadIdx.x % kWarpgroup == 0; }

  // The residual of `part` tokens into the place of the results, once the last ones have left it.
  __device__ __forceinline__ void FetchResidual(const CUtensorMap* map, const Work& work, int from, int part) const {
    if (!kStaged || !leader()) return;
    TensorStoreWaitRead();
    if (!plan_.args.residual) return;
    WaitForPriorKernelsIfAny();
    BarrierArriveExpect(&s_.residual[warpgroup_], part * 128);
    TensorLoad(map, &s_.residual[warpgroup_], s_.result[warpgroup_], 2 * (work.channel + warpgroup_ * 64),
               static_cast<int>(work.token) + from);
  }

  // Writes kPart tokens of a tile; get(j, v) gives the sums of their column blocks j and j + 1.
  template <int kPart, class Get>
  __device__ __forceinline__ void Write(const CUtensorMap* y_map, const Work& work, int from, Get&& get) {
    uint8_t* staging = s_.result[warpgroup_];
    WaitForPriorKernelsIfAny();
    if (kStaged && plan_.args.residual) {
      BarrierWait(&s_.residual[warpgroup_], residual_parity_);
      residual_parity_ ^= 1;
    } else if (kStaged) {
      NamedBarrier(1 + warpgroup_, kWarpgroup);
    }
    fp8::Work piece{};
    piece.token = work.token + from, piece.channel = work.channel;
    const fp8::ResultWriter<T> writer(plan_.args, piece, warpgroup_, staging);
    const typename Math::Scales scales(plan_.args, work.channel + row_, piece.token);
#pragma unroll
    for (int j = 0; j < kPart / 8; j += 2) {
      Sum sum[8];
      get(j, sum);
      float v[8];
      scales.Apply(j, sum, v);
      writer.Write(j, v);
    }
    if (!kStaged) return;
    FenceAsyncProxy();
    NamedBarrier(1 + warpgroup_, kWarpgroup);
    if (leader()) {
      TensorStore(y_map, staging, 2 * (work.channel + warpgroup_ * 64), static_cast<int>(work.token) + from);
      TensorStoreCommit();
    }
  }

  // The sums that block `from` sent for this thread's column block j of the half that this block writes, in the memory
  // of the stages.
  __device__ __forceinline__ uint8_t* Received(uint32_t from, int j) const {
    return s_.tokens[0] + ((from * (S::kHalf / 8) + j) * kMathThreads + threadIdx.x) * 16;
  }

  // Blocks 0 and 1 write half of the tile's tokens each and get the others' sums of them, without waiting (st.async).
  __device__ __forceinline__ void SendHalves(const Sum (&sum)[kSums]) const {
    static_assert(S::kMostSplit * sizeof(Sum) * kSums / 2 * kMathThreads <=
                  S::kStages * (S::kTokenTile + S::kWeightTile));
    const int lane = threadIdx.x % 32;
    if (plan_.split > 1) ClusterWait();  // all blocks have begun
    if (lane < plan_.cluster()) BarrierArriveCluster(ClusterAddress(&s_.stages_left, lane));
    BarrierWaitCluster(&s_.stages_left, 0);
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      if (half == rank_) continue;
      const uint32_t barrier = ClusterAddress(&s_.received, half);
      const uint32_t to = ClusterAddress(Received(rank_, 0), half);
#pragma unroll
      for (int j = 0; j < S::kHalf / 8; ++j) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) memcpy(&v[i], &sum[(half * (S::kHalf / 8) + j) * 4 + i], 4);
        StoreRemoteAsync(to + j * kMathThreads * 16, barrier, v);
      }
    }
  }

  // Sums are added in the order of the blocks.
  template <int kWritten>
  __device__ __forceinline__ void WriteHalf(const CUtensorMap* y_map, const Work& work, const Sum (&sum)[kSums]) {
    BarrierWaitCluster(&s_.received, 0);
    Write<S::kHalf>(y_map, work, kWritten * S::kHalf, [&](int j, Sum(&v)[8]) {
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = 0;
#pragma unroll
      for (uint32_t block = 0; block < S::kMostSplit; ++block) {
        if (block >= static_cast<uint32_t>(plan_.cluster())) break;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (block == kWritten) {
            v[i] += sum[(kWritten * (S::kHalf / 8) + j) * 4 + i];
          } else {
            v[i] += reinterpret_cast<const Sum*>(Received(block, j + i / 4))[i % 4];
          }
        }
      }
    });
  }

  const Plan& plan_;
  S& s_;
  const uint32_t rank_;
  const int warpgroup_, row_;  // row: of the block's channels, this thread's first
  const uint64_t first_tokens_, first_weights_;
  uint32_t empty_;  // of the block that this lane reports to
  bool releases_;
  uint32_t residual_parity_ = 0;
  RingPosition<S::kStages> ring_;
};

template <class Math, int kTokens>
__global__ __launch_bounds__(kThreads, 1) void WideKernel(const __grid_constant__ Plan plan,
                                                          const __grid_constant__ CUtensorMap token_map,
                                                          const __grid_constant__ CUtensorMap weight_map,
                                                          const __grid_constant__ CUtensorMap y_map,
                                                          const __grid_constant__ CUtensorMap residual_map) {
  extern __shared__ __align__(1024) uint8_t raw[];
  using S = Shared<Math, kTokens>;
  S& s = *reinterpret_cast<S*>(raw);
  const uint32_t rank = ClusterRank();
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      BarrierInit(&s.full[i], 1);
      BarrierInit(&s.empty[i], kMathWarps * (plan.split == 1 ? kClusterBlocks : 1));
    }
    for (int i = 0; i < 2; ++i) BarrierInit(&s.residual[i], 1);
    BarrierInit(&s.stages_left, kMathWarps * plan.cluster());
    BarrierInit(&s.received, 1);
    BarrierInitFence();
    if (rank < 2) BarrierArriveExpect(&s.received, (plan.cluster() - 1) * S::kHalf / 8 * kMathThreads * 16);
  }
  if (threadIdx.x == kMathThreads) {
    PrefetchTensorMap(&token_map);
    PrefetchTensorMap(&weight_map);
  }
  LetNextKernelStartIfAny();
  __syncthreads();
  ClusterArriveRelaxed();
  if (plan.split == 1) ClusterWait();  // otherwise not before sums are sent
  if (threadIdx.x >= kMathThreads) {
    GiveRegisters<40>();
    if (threadIdx.x == kMathThreads) Produce<Math, kTokens>(plan, s, &token_map, &weight_map, rank);
    __syncwarp();
    if (plan.split > 1) ClusterWait();
  } else {
    TakeRegisters<232>();
    Consumer<Math, kTokens>(plan, s, rank).Run(&y_map, &residual_map);
  }
  if (plan.split > 1) return;  // everything that was to come has come
  ClusterArriveRelaxed();      // another block may still write into this one or arrive at its barriers
  ClusterWait();
}

}  // namespace lowbit::cuda::wide
