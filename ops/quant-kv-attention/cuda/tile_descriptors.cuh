// Descriptors of float16 operands of wgmma in shared memory, unswizzled: 16-byte chunks of 8 channels, the chunks of
// neighbouring rows side by side, so that chunk c of row r lies at (c * rows + r) * 16.
#pragma once
#include "ops/common/cuda/ptx.cuh"

namespace lowbit::cuda {

// A tile of `rows` rows that are multiplied along their channels.
__device__ __forceinline__ uint64_t ChannelsDescriptor(const void* tile, int rows) {
  const uint64_t address = SharedAddress(tile);
  return ((address & 0x3ffff) >> 4) | static_cast<uint64_t>(rows) << 16 | 8ull << 32;
}
// A tile whose channels become columns: it is multiplied along its rows.
__device__ __forceinline__ uint64_t RowsDescriptor(const void* tile, int rows) {
  const uint64_t address = SharedAddress(tile);
  return ((address & 0x3ffff) >> 4) | 8ull << 16 | static_cast<uint64_t>(rows) << 32;
}

}  // namespace lowbit::cuda
