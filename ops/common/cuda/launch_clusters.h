// Launching kernels that may start before the kernel ahead in the stream has ended, and clusters of blocks.
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
  int clusters = 0, blocks = 1;  // blocks: of a cluster
  int threads = 0;               // of a block
  size_t shared_bytes = 0;       // of a block, dynamic
  int rows = 1;                  // of as many clusters each, the grid's second dimension
  bool early = true;             // on chips since Hopper: may start while the kernel ahead ends
};

// Starts `kernel`, which has been allowed its shared memory, with these arguments. `early`: as soon as
// griddepcontrol.launch_dependents in the kernel ahead allows, so it must wait (WaitForPriorKernelsIfAny) before it
// touches what others write.
template <class... Parameters>
cudaError_t LaunchGrid(void (*kernel)(Parameters...), const ClusterGrid& grid, cudaStream_t stream,
                       const Parameters&... arguments) {
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.clusters * grid.blocks), static_cast<unsigned>(grid.rows));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (grid.early) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.blocks > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(grid.blocks);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// The same, and allows the shared memory.
template <class... Parameters>
cudaError_t LaunchClusters(void (*kernel)(Parameters...), const ClusterGrid& grid, cudaStream_t stream,
                           const Parameters&... arguments) {
  const cudaError_t e =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared_bytes));
  return e == cudaSuccess ? LaunchGrid(kernel, grid, stream, arguments...) : e;
}

}  // namespace lowbit::cuda
