// Launching Hopper kernels: clusters of blocks that may start before the kernel ahead in the stream has ended.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

namespace lowbit::cuda {

// Of the current device.
inline cudaError_t Multiprocessors(int* count) {
  int device = 0;
  const cudaError_t e = cudaGetDevice(&device);
  return e == cudaSuccess ? cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device) : e;
}

struct ClusterGrid {
  int clusters = 0, blocks = 0;  // blocks: of a cluster
  int threads = 0;               // of a block
  size_t shared_bytes = 0;       // of a block, dynamic
};

// Starts `kernel` with these arguments, as early as griddepcontrol.launch_dependents in the kernel ahead allows:
// the kernel must wait (WaitForPriorKernelsIfAny) before it touches what others write.
template <class... Parameters>
cudaError_t LaunchClusters(void (*kernel)(Parameters...), const ClusterGrid& grid, cudaStream_t stream,
                           const Parameters&... arguments) {
  const cudaError_t e =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared_bytes));
  if (e != cudaSuccess) return e;
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(grid.blocks);
  attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.clusters * grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace lowbit::cuda
