// Host side of the decode kernels: the division of the work, from shapes that the host knows.
#pragma once
#include <algorithm>

#include "ops/quant-kv-attention/cuda/decode_kernel.cuh"

namespace lowbit::cuda {

// What a launch asks about the device.
struct DecodeDevice {
  int sms = 0, major = 0, shared_bytes = 0;  // the last: that a block may have
  cudaError_t error;

  DecodeDevice() {
    int device = 0;
    error = cudaGetDevice(&device);
    const auto ask = [&](int* value, cudaDeviceAttr attribute) {
      if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, device);
    };
    ask(&sms, cudaDevAttrMultiProcessorCount);
    ask(&major, cudaDevAttrComputeCapabilityMajor);
    ask(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  }
  int most_split() const { return major >= 9 ? kMaxSplit : 1; }
};

// Heads whose keys no other warp has. The division of the work does not come from the cache's size: a growing and an
// in-place cache then give the same bits.
inline int64_t DecodeHeads(const KvArgs& args) {
  return static_cast<int64_t>(args.batch) * args.kv_heads * ((args.query_rows() + kDecodeRows - 1) / kDecodeRows);
}

// Keys that are turned share tables with other heads, where these are enough for seven warps on each multiprocessor.
inline bool SharesTables(const KvArgs& args, const DecodeDevice& device, int resident_warps) {
  return args.rotate_on_read && args.kv_heads % kSharingWarps == 0 &&
         DecodeHeads(args) / kSharingWarps * device.most_split() * resident_warps >= 7 * device.sms;
}

inline DecodePlan MakeDecodePlan(const KvArgs& args, const DecodeDevice& device, int resident_warps, int sharing) {
  DecodePlan plan;
  plan.args = args;
  plan.head_warps = sharing;
  plan.row_blocks = (args.query_rows() + kDecodeRows - 1) / kDecodeRows;
  if (args.group() > 1) {
    plan.group_inverse =
        static_cast<uint32_t>((0x100000000ull + args.group() - 1) / static_cast<unsigned>(args.group()));
  }
  // Doubled while all warps are on the device at once. Large clusters only find room on half of it.
  const int64_t blocks = DecodeHeads(args) / sharing;
  const auto fits = [&](int warps, int split) {
    return blocks * warps * split <= static_cast<int64_t>(device.sms) * (split >= 4 ? 8 : resident_warps);
  };
  while (plan.split < device.most_split() && fits(plan.warps, 2 * plan.split)) plan.split *= 2;
  while (2 * plan.warps <= resident_warps && fits(2 * plan.warps, plan.split)) plan.warps *= 2;
  return plan;
}

template <int kBits, int kDim, Turn kTurn, int kSharing>
cudaError_t LaunchDecodeSharing(const KvArgs& args, const DecodeDevice& device, cudaStream_t stream) {
  using Memory = DecodeMemory<kBits, kDim, kTurn, kSharing>;
  DecodePlan plan = MakeDecodePlan(args, device, kResidentWarps<kBits, kDim, kTurn>, kSharing);
  const int used = std::min(kDecodeRows, args.query_rows());
  while (plan.warps > kSharing && Memory::Bytes(plan.warps, used) > device.shared_bytes) plan.warps /= 2;
  const int bytes = Memory::Bytes(plan.warps, used);
  auto* kernel = DecodeKernel<kBits, kDim, kTurn, kSharing>;
  const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (e != cudaSuccess) return e;
  // Started while the append kernel ends; a cluster where the keys are divided over blocks.
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(plan.split);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(plan.split), static_cast<unsigned>(args.kv_heads / kSharing),
                        static_cast<unsigned>(args.batch * plan.row_blocks));
  launch.blockDim = dim3(32 * static_cast<unsigned>(plan.warps));
  launch.dynamicSmemBytes = static_cast<size_t>(bytes);
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = device.major < 9 ? 0 : plan.split > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&launch, kernel, static_cast<const DecodePlan>(plan));
}

template <int kBits, int kDim, Turn kTurn>
cudaError_t LaunchDecode(const KvArgs& args, cudaStream_t stream) {
  const DecodeDevice device;
  if (device.error != cudaSuccess) return device.error;
  if constexpr (kTurn != Turn::kNone) {
    if (SharesTables(args, device, kResidentWarps<kBits, kDim, kTurn>)) {
      return LaunchDecodeSharing<kBits, kDim, kTurn, kSharingWarps>(args, device, stream);
    }
  }
  return LaunchDecodeSharing<kBits, kDim, kTurn, 1>(args, device, stream);
}

template <int kBits, int kDim>
cudaError_t LaunchDecodeTurned(const KvArgs& args, cudaStream_t stream) {
  if (!args.rotate_on_read) return LaunchDecode<kBits, kDim, Turn::kNone>(args, stream);
  if constexpr (kDim == 64 || kDim == 128 || kDim == 256) {
    return args.rotary == KvRotary::kHalf ? LaunchDecode<kBits, kDim, Turn::kHalf>(args, stream)
                                          : LaunchDecode<kBits, kDim, Turn::kInterleaved>(args, stream);
  }
  return cudaErrorInvalidValue;
}

template <int kBits>
cudaError_t LaunchDecodeBits(const KvArgs& args, cudaStream_t stream) {
  switch (args.head_dim) {
    case 32:
      return LaunchDecodeTurned<kBits, 32>(args, stream);
    case 64:
      return LaunchDecodeTurned<kBits, 64>(args, stream);
    case 80:
      return LaunchDecodeTurned<kBits, 80>(args, stream);
    case 96:
      return LaunchDecodeTurned<kBits, 96>(args, stream);
    case 128:
      return LaunchDecodeTurned<kBits, 128>(args, stream);
    case 256:
      return LaunchDecodeTurned<kBits, 256>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace lowbit::cuda
