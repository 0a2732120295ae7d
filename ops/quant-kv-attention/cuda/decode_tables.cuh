// RoPE tables of the keys that a step turns, in shared memory.
#pragma once
#include "ops/quant-kv-attention/cuda/decode.cuh"

namespace lowbit::cuda {

// Codes are float16 subnormals, c * 2^-24 (or 16 times that): entries come as much larger as makes products normal
// numbers. So they have to be below 16.
constexpr float kTableUnit = 0x1p12f;

// Rows of 16 positions, those of this step and of the next, shared by warps that have the same keys of different heads.
// Copies bring rows as they are; each lane then takes its own chunks apart and stores them as the left operands that
// mma and the codes ask for: entries in the order of CodePair, {cos of keys g and g + 8, sin of both} for lane (g, t)
// of each mma step.
template <int kBits, int kDim, Turn kTurn, int kSharing>
struct TableStage {
  using Layout = DecodeLayout<kBits, kDim, kTurn>;
  static constexpr int kPairs = kDim / 2, kChunks = kDim / 8;
  static constexpr int kRowBytes = 16 * kChunks, kStepBytes = kDecodeKeys * kRowBytes;
  // Rows as they come and operands, of the next step as well where other warps may not be done with this one.
  static constexpr bool kTwoSlots = kSharing > 1;
  static constexpr int kBytes = (kTwoSlots ? 3 : 2) * kStepBytes;
  static constexpr int kAtOnce = 32 / kChunks;  // rows that a warp asks for at once, each lane one chunk
  static_assert(kChunks <= 32 && kStepBytes == Layout::kSteps * 512);
  const __half* from = nullptr;  // the lane's chunk of row `own`
  int own = 0;
  uint32_t raw = 0;      // shared address of what the lane asked for of row `own`
  uint32_t place = 0;    // where its first entries go in the operands of even steps
  uint32_t operand = 0;  // what it reads of them

  // `warp` of those that share.
  __device__ __forceinline__ void Start(const KvArgs& args, uint32_t shared, int warp) {
    const int lane = threadIdx.x % 32, chunk = lane % kChunks;
    const int operand_at = OperandOf(chunk % (kChunks / 2) * 8);
    own = warp * kAtOnce + lane / kChunks;
    // Lanes that store in the same place of different mma steps take rows g and g + 8, which are in different banks.
    if (kAtOnce * kSharing == kDecodeKeys) own ^= operand_at / (Layout::kWordSteps * 512) % 2 * 8;
    from = Keep(static_cast<const __half*>(chunk < kChunks / 2 ? args.cos : args.sin) + chunk % (kChunks / 2) * 8 +
                own * kPairs);
    raw = Keep(shared + own * kRowBytes + chunk * 16);
    place = Keep(shared + kStepBytes + RowPlace(own) + (chunk < kChunks / 2 ? 0 : 8) + operand_at);
    operand = Keep(shared + kStepBytes + lane * 16);
  }

  // Asks for this warp's share of the rows of positions from `first` on; those beyond the tables are left out.
  __device__ __forceinline__ void Ask(const KvArgs& args, int first) const {
    const int there = args.limit - first - own;
    const __half* rows = from + static_cast<int64_t>(first) * kPairs;
#pragma unroll
    for (int row = 0; row < kDecodeKeys; row += kAtOnce * kSharing) {
      if (row < there) AsyncCopy16(raw + row * kRowBytes, rows + row * kPairs);
    }
  }

  // Makes operands of what this warp asked for, which has come; then waits until all have. `barrier` is theirs.
  __device__ __forceinline__ void Arrange(const KvArgs& args, int step, int barrier) const {
    const uint32_t to = place + Slot(step);
    const __half2 unit = __float2half2_rn(kTableUnit);
    // Two rows at once, where a lane has more than one: their loads wait together.
    constexpr int kStride = kAtOnce * kSharing, kPair = kStride < kDecodeKeys ? 2 : 1;
#pragma unroll
    for (int first = 0; first < kDecodeKeys; first += kPair * kStride) {
      uint4 v[kPair];
#pragma unroll
      for (int r = 0; r < kPair; ++r) {
        v[r] = ToHalves(LoadShared16(raw + (first + r * kStride) * kRowBytes), IsBrain(args));
      }
#pragma unroll
      for (int r = 0; r < kPair; ++r) {
        uint32_t w[4];
        InOrder(v[r], w);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          StoreShared4(to + RowPlace(first + r * kStride) + Further(i), Bits(__hmul2(Halves(w[i]), unit)));
        }
      }
    }
    if constexpr (kSharing == 1) {
      __syncwarp();
    } else {
      NamedBarrier(barrier, 32 * kSharing);
    }
  }

  // Of an mma step: cos of keys g and g + 8, and sin.
  __device__ __forceinline__ uint4 Load(int step, int mma_step) const {
    return LoadShared16(operand + Slot(step) + mma_step * 512);
  }

 private:
  static constexpr int kWordEntries = Layout::kWordCodes / (kTurn == Turn::kInterleaved ? 2 : 1);  // of a word of codes

  // Where an entry and its neighbour in the operand go: their mma step and lane. `entry` is even; of a word's entries,
  // those from 2i on are the i-th operand's.
  __device__ static __forceinline__ int OperandOf(int entry) {
    constexpr int kPiece = Layout::KeySlice::kPiece;
    const int word_entry = entry % kWordEntries, channel = (entry - word_entry) * (kTurn == Turn::kInterleaved ? 2 : 1);
    const int byte = channel * kBits / 8, piece = byte / kPiece;
    const int word = (piece / 4 * kPiece + byte % kPiece) / 4;
    return (word * Layout::kWordSteps + word_entry / 2) * 512 + piece % 4 * 16;
  }

  // Where the operands of a step begin; warps that share none are never ahead.
  __device__ __forceinline__ int Slot(int step) const { return kTwoSlots ? step % 2 * kStepBytes : 0; }

  // The entries of a chunk as CodePair takes codes from words.
  __device__ static __forceinline__ void InOrder(const uint4& v, uint32_t (&w)[4]) {
    if constexpr (kWordEntries == 8) {
      w[0] = __byte_perm(v.x, v.z, 0x5410), w[1] = __byte_perm(v.x, v.z, 0x7632);
      w[2] = __byte_perm(v.y, v.w, 0x5410), w[3] = __byte_perm(v.y, v.w, 0x7632);
    } else if constexpr (kWordEntries == 4) {
      w[0] = __byte_perm(v.x, v.y, 0x5410), w[1] = __byte_perm(v.x, v.y, 0x7632);
      w[2] = __byte_perm(v.z, v.w, 0x5410), w[3] = __byte_perm(v.z, v.w, 0x7632);
    } else {
      w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    }
  }

  // From a chunk's first entries to its others: those of one word of codes are neighbouring steps.
  __device__ __forceinline__ int Further(int i) const {
    if (kWordEntries == 8) return i * 512;
    const int entry = threadIdx.x % (kChunks / 2) * 8;
    return OperandOf(entry + 2 * i) - OperandOf(entry);
  }

  // Where a row lies in an operand: lanes have rows g and g + 8.
  __device__ static __forceinline__ int RowPlace(int row) { return row % 8 * 64 + row / 8 * 4; }
};

}  // namespace lowbit::cuda
