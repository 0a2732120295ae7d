// Host side of the decode kernels: the division of the work, from shapes that the host knows.
#pragma once
#include <algorithm>

#include "ops/quant-kv-attention/cuda/decode_kernel.cuh"

namespace lowbit::cuda {

// Not from the cache's size: a growing and an in-place cache then give the same bits.
inline cudaError_t MakeDecodePlan(const KvArgs& args, int resident_warps, DecodePlan* plan) {
  int device = 0, sms = 0, major = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (e == cudaSuccess)
    e = cudaDeviceGetAttribute(&plan->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  plan->args = args;
  plan->row_blocks = (args.query_rows() + kDecodeRows - 1) / kDecodeRows;
  plan->hopper = major >= 9;
  const int most_split = plan->hopper ? kMaxSplit : 1;
  if (args.group() > 1) {
    plan->group_inverse =
        static_cast<uint32_t>((0x100000000ull + args.group() - 1) / static_cast<unsigned>(args.group()));
  }
  const int64_t heads = static_cast<int64_t>(args.batch) * args.kv_heads * plan->row_blocks;
  // Keys that are turned share tables with other heads, where there are heads enough for all of the device.
  while (args.rotate_on_read && plan->head_warps < kMostSharing && args.kv_heads % (2 * plan->head_warps) == 0 &&
         heads / (2 * plan->head_warps) * most_split * resident_warps >= 7 * sms) {
    plan->head_warps *= 2;
  }
  // Doubled while all warps are on the device at once. Large clusters only find room on half of it.
  const int64_t blocks = heads / plan->head_warps;
  const auto fits = [&](int warps, int split) {
    return blocks * warps * split <= static_cast<int64_t>(sms) * (split >= 4 ? 8 : resident_warps);
  };
  while (plan->split < most_split && fits(plan->warps, 2 * plan->split)) plan->split *= 2;
  while (2 * plan->warps <= resident_warps && fits(2 * plan->warps, plan->split)) plan->warps *= 2;
  return e;
}

template <int kBits, int kDim, Turn kTurn>
cudaError_t LaunchDecode(const KvArgs& args, cudaStream_t stream) {
  DecodePlan plan;
  cudaError_t e = MakeDecodePlan(args, kResidentWarps<kBits, kDim, kTurn>, &plan);
  if (e != cudaSuccess) return e;
  const int used = std::min(kDecodeRows, args.query_rows());
  using Memory = DecodeMemory<kBits, kDim, kTurn>;
  while (plan.warps > 1 && Memory::Bytes(plan.warps, plan.head_warps, used) > plan.shared_bytes) {
    plan.warps /= 2;
    plan.head_warps = std::min(plan.head_warps, plan.warps);
  }
  const int bytes = Memory::Bytes(plan.warps, plan.head_warps, used);
  auto* kernel = DecodeKernel<kBits, kDim, kTurn>;
  e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (e != cudaSuccess) return e;
  // Started while the append kernel ends; a cluster where the keys are divided over blocks.
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(plan.split);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(plan.split), static_cast<unsigned>(args.kv_heads / plan.head_warps),
                        static_cast<unsigned>(args.batch * plan.row_blocks));
  launch.blockDim = dim3(32 * static_cast<unsigned>(plan.warps));
  launch.dynamicSmemBytes = static_cast<size_t>(bytes);
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = !plan.hopper ? 0 : plan.split > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&launch, kernel, static_cast<const DecodePlan>(plan));
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
