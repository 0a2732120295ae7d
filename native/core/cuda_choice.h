// What operators with several CUDA kernels share: the device's architecture, and the kernel that the user forces.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "native/core/kernel_choice.h"

namespace lowbit {

/// A CUDA kernel as OrtLowbitDescribe lists it.
struct CudaKernelRow {
  const char* name;
  bool available;  // the current device can run it
};

/// Compute capability x 10 of the current device.
inline cudaError_t CudaArchitecture(int* arch) {
  int device = 0, major = 0, minor = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *arch = major * 10 + minor;
  return e;
}

/// The kernel of `op` that the user forces, by its full name, or null. `rows()` lists their names; Op is a type that
/// only this operator uses: asking takes a lock, so each thread keeps the answer until the next change.
template <class Op, class Rows>
const char* ForcedCudaKernel(const char* op, const Rows& rows) {
  thread_local uint32_t known = 0;
  thread_local const char* forced = nullptr;
  if (const uint32_t now = ForceGeneration(); known != now) {
    const std::vector<KernelRow> list = rows();
    const std::string name = ForcedKernel(op, list);
    forced = nullptr;
    for (const KernelRow& row : list) {
      if (name == row.name) forced = row.name;
    }
    known = now;
  }
  return forced;
}

}  // namespace lowbit
