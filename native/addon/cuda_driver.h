// The few calls of the CUDA driver that the host needs, looked up at run time: nothing of CUDA is linked, and a machine
// without a driver is a fact to report, not an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace lowbit::host {

struct CudaDevice {
  std::string name;
  int major, minor;  // compute capability
  uint64_t memory_bytes;
};

struct CudaFacts {
  bool driver_found;   // libcuda could be loaded
  std::string error;   // why there is no usable device; empty when there is one
  int driver_version;  // as CUDA counts: 13000 is 13.0; 0 when unknown
  std::vector<CudaDevice> devices;
};

CudaFacts ReadCudaFacts();

/// Copies between device and host memory in the device's primary context, which is the one ORT uses. Blocks until done.
/// Throws std::runtime_error naming the driver's error.
void CopyFromDevice(int device_id, void* to, const void* from, size_t byte_count);
void CopyToDevice(int device_id, void* to, const void* from, size_t byte_count);
/// Overwrites device memory with zeros; likewise.
void ZeroOnDevice(int device_id, void* to, size_t byte_count);

}  // namespace lowbit::host
