// Host side of the decode kernels: the division of the work, from shapes that the host knows.
#pragma once
#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "ops/quant-kv-attention/cuda/decode_kernel.cuh"

namespace lowbit::cuda {

// What a launch asks about the device.
struct DecodeDevice {
  int id = 0, sms = 0, major = 0, shared_bytes = 0;  // the last: that a block may have
  cudaError_t error;

  DecodeDevice() {
    error = cudaGetDevice(&id);
    const auto ask = [&](int* value, cudaDeviceAttr attribute) {
      if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, id);
    };
    ask(&sms, cudaDevAttrMultiProcessorCount);
    ask(&major, cudaDevAttrComputeCapabilityMajor);
    ask(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  }
};

// Blocks of 8 query rows of a head.
inline int DecodeRowBlocks(const KvArgs& args) { return (args.query_rows() + kDecodeRows - 1) / kDecodeRows; }

// Keys that are turned share tables with those of `sharing` heads, where these are enough for seven warps on each
// multiprocessor.
inline bool SharesTables(const KvArgs& args, const DecodeDevice& device, int resident_warps, int sharing) {
  return args.kv_heads % sharing == 0 && static_cast<int64_t>(args.batch) * args.kv_heads * DecodeRowBlocks(args) /
                                                 sharing * kSharedSplit * resident_warps >=
                                             7 * device.sms;
}

// A kernel's launch: what depends on the numbers of warps and blocks.
template <int kBits, int kDim, Turn kTurn, int kSharing, int kHeads>
struct DecodeLaunch {
  using Memory = DecodeMemory<kBits, kDim, kTurn, kSharing, kHeads>;
  static constexpr int kMostWarps = kResidentWarps<kBits, kDim, kTurn>;

  const DecodeDevice& device;
  cudaLaunchAttribute attribute{};
  cudaLaunchConfig_t config{};

  explicit DecodeLaunch(const DecodeDevice& on) : device(on) {}

  // Whether a block of as few warps as can be has room.
  static bool Fits(const DecodeDevice& device, int used) {
    return Memory::Bytes(kSharing, used) <= device.shared_bytes;
  }
  static auto* kernel() { return DecodeKernel<kBits, kDim, kTurn, kSharing, kHeads>; }

  // False if a block needs more memory than there is.
  bool Set(int warps, int used) {
    const int bytes = Memory::Bytes(warps, used);
    if (bytes > device.shared_bytes) return false;
    config.blockDim = dim3(32 * static_cast<unsigned>(warps));
    config.dynamicSmemBytes = static_cast<size_t>(bytes);
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;  // started while the append kernel ends
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = device.major < 9 ? 0 : 1;
    return cudaFuncSetAttribute(kernel(), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess;
  }

  // Blocks that the device has room for at once.
  int64_t Room() const {
    int count = 0;
    const int threads = static_cast<int>(config.blockDim.x);
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel(), threads, config.dynamicSmemBytes) ==
                   cudaSuccess
               ? static_cast<int64_t>(count) * device.sms
               : 0;
  }

  // Warps of a block and blocks of a group: as many warps as are on the device at once, in few large blocks. Where even
  // one block for each group is too many, small ones that fill the multiprocessors. Nothing here comes from the cache's
  // size: a growing and an in-place cache give the same bits.
  std::pair<int, int> Divide(int64_t groups, int used) {
    int64_t most = 0, most_resident = 0;
    std::pair<int, int> best{0, 1}, small{0, 1};
    const auto consider = [&](int warps) {
      if (!Set(warps, used)) return;
      const int64_t room = Room(), split = std::min<int64_t>(room / groups, kMaxSplit);
      if (room * warps > most_resident) most_resident = room * warps, small = {warps, 1};
      if (split > 0 && groups * split * warps >= most) {
        most = groups * split * warps, best = {warps, static_cast<int>(split)};
      }
    };
    for (int warps = 4 * kHeads; warps <= kMostWarps; warps *= 2) consider(warps);
    for (int warps = 2 * kHeads; warps >= kSharing && small.first == 0; warps /= 2)
      consider(warps);  // little shared memory
    return best.first ? best : small;
  }
};

// What a kernel of the table does: say how much scratch memory a run takes, or run.
struct DecodeRun {
  cudaStream_t stream = nullptr;
  KvScratch* scratch = nullptr;  // asked for, if not null
};

template <int kBits, int kDim, Turn kTurn, int kSharing, int kHeads>
cudaError_t LaunchDecodeSharing(const KvArgs& args, const DecodeDevice& device, int used, const DecodeRun& run) {
  DecodePlan plan;
  plan.args = args;
  plan.row_blocks = DecodeRowBlocks(args);
  plan.most_items = kSharing * kHeads * used * (kDim / 4);
  plan.row_blocks_divisor = Divisor(plan.row_blocks);
  plan.group = Divisor(args.group());
  const int heads = args.kv_heads / (kSharing * kHeads);
  const int64_t groups = static_cast<int64_t>(args.batch) * heads * plan.row_blocks;
  DecodeLaunch<kBits, kDim, kTurn, kSharing, kHeads> launch(device);
  {
    // Asking the device takes longer than a launch.
    static std::mutex guard;
    static std::map<std::tuple<int, int64_t, int>, std::pair<int, int>> divisions;
    const std::lock_guard<std::mutex> hold(guard);
    const auto [found, is_new] = divisions.try_emplace({device.id, groups, used});
    if (is_new) found->second = launch.Divide(groups, used);
    std::tie(plan.warps, plan.split) = found->second;
  }
  if (run.scratch) {
    if (plan.split > 1) {
      const DecodeScratch layout(groups, plan.split, plan.most_items, kDim);
      *run.scratch = {static_cast<size_t>(layout.bytes), static_cast<int>(groups)};
    }
    return cudaSuccess;
  }
  if (!args.scratch) plan.split = 1;
  plan.key_warps = Divisor(plan.split * (plan.warps / kSharing));
  if (!launch.Set(plan.warps, used)) return cudaErrorInvalidConfiguration;
  launch.config.gridDim = dim3(static_cast<unsigned>(plan.split), static_cast<unsigned>(heads * plan.row_blocks),
                               static_cast<unsigned>(args.batch));
  launch.config.stream = run.stream;
  return cudaLaunchKernelEx(&launch.config, launch.kernel(), static_cast<const DecodePlan>(plan));
}

template <int kBits, int kDim, Turn kTurn>
cudaError_t LaunchDecode(const KvArgs& args, const DecodeRun& run) {
  const DecodeDevice device;
  if (device.error != cudaSuccess) return device.error;
  const int used = std::min(kDecodeRows, args.query_rows());
  if constexpr (kTurn != Turn::kNone) {
    constexpr int kResident = kResidentWarps<kBits, kDim, kTurn>;
    // Two heads of a warp have half of mma's columns each; their codes need shared memory.
    if constexpr (kResident == 16) {
      if (args.query_rows() <= kDecodeRows / 2 && SharesTables(args, device, kResident, 8) &&
          DecodeLaunch<kBits, kDim, kTurn, 4, 2>::Fits(device, used)) {
        return LaunchDecodeSharing<kBits, kDim, kTurn, 4, 2>(args, device, used, run);
      }
    }
    if (SharesTables(args, device, kResident, 4) && DecodeLaunch<kBits, kDim, kTurn, 4, 1>::Fits(device, used)) {
      return LaunchDecodeSharing<kBits, kDim, kTurn, 4, 1>(args, device, used, run);
    }
  }
  return LaunchDecodeSharing<kBits, kDim, kTurn, 1, 1>(args, device, used, run);
}

template <int kBits, int kDim>
cudaError_t LaunchDecodeTurned(const KvArgs& args, const DecodeRun& run) {
  if (!args.rotate_on_read) return LaunchDecode<kBits, kDim, Turn::kNone>(args, run);
  if constexpr (kDim == 64 || kDim == 128 || kDim == 256) {
    return args.rotary == KvRotary::kHalf ? LaunchDecode<kBits, kDim, Turn::kHalf>(args, run)
                                          : LaunchDecode<kBits, kDim, Turn::kInterleaved>(args, run);
  }
  return cudaErrorInvalidValue;
}

template <int kBits>
cudaError_t LaunchDecodeBits(const KvArgs& args, const DecodeRun& run) {
  switch (args.head_dim) {
    case 32:
      return LaunchDecodeTurned<kBits, 32>(args, run);
    case 64:
      return LaunchDecodeTurned<kBits, 64>(args, run);
    case 80:
      return LaunchDecodeTurned<kBits, 80>(args, run);
    case 96:
      return LaunchDecodeTurned<kBits, 96>(args, run);
    case 128:
      return LaunchDecodeTurned<kBits, 128>(args, run);
    case 256:
      return LaunchDecodeTurned<kBits, 256>(args, run);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace lowbit::cuda
