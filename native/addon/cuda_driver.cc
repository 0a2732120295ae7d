#include "cuda_driver.h"

#include <dlfcn.h>

#include <stdexcept>

namespace lowbit::host {
namespace {

// Names and numbers of cuda.h's stable ABI; the header is not needed to build.
using CuResult = int;
constexpr CuResult kSuccess = 0;
constexpr int kCapabilityMajor = 75;
constexpr int kCapabilityMinor = 76;

struct Driver {
  CuResult (*init)(unsigned) = nullptr;
  CuResult (*driver_get_version)(int*) = nullptr;
  CuResult (*device_get_count)(int*) = nullptr;
  CuResult (*device_get)(int*, int) = nullptr;
  CuResult (*device_get_name)(char*, int, int) = nullptr;
  CuResult (*device_get_attribute)(int*, int, int) = nullptr;
  CuResult (*device_total_mem)(size_t*, int) = nullptr;
  CuResult (*primary_ctx_retain)(void**, int) = nullptr;
  CuResult (*primary_ctx_release)(int) = nullptr;
  CuResult (*ctx_push_current)(void*) = nullptr;
  CuResult (*ctx_pop_current)(void**) = nullptr;
  CuResult (*memcpy_dtoh)(void*, unsigned long long, size_t) = nullptr;
  CuResult (*memcpy_htod)(unsigned long long, const void*, size_t) = nullptr;
  CuResult (*memset_d8)(unsigned long long, unsigned char, size_t) = nullptr;
  CuResult (*ctx_synchronize)() = nullptr;
  CuResult (*get_error_name)(CuResult, const char**) = nullptr;
  bool found = false;
  std::string error;  // empty: initialized
};

std::string ErrorName(const Driver& driver, CuResult result) {
  const char* name = nullptr;
  if (driver.get_error_name) driver.get_error_name(result, &name);
  return name ? name : "CUDA error " + std::to_string(result);
}

Driver Open() {
  Driver driver;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* text = dlerror();
    driver.error = std::string("no NVIDIA driver: ") + (text ? text : "libcuda.so.1 cannot be loaded");
    return driver;
  }
  driver.found = true;
  bool complete = true;
  const auto bind = [&](auto& function, const char* name) {
    void* symbol = dlsym(library, name);
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
    complete = complete && symbol;
  };
  bind(driver.init, "cuInit");
  bind(driver.driver_get_version, "cuDriverGetVersion");
  bind(driver.device_get_count, "cuDeviceGetCount");
  bind(driver.device_get, "cuDeviceGet");
  bind(driver.device_get_name, "cuDeviceGetName");
  bind(driver.device_get_attribute, "cuDeviceGetAttribute");
  bind(driver.device_total_mem, "cuDeviceTotalMem_v2");
  bind(driver.primary_ctx_retain, "cuDevicePrimaryCtxRetain");
  bind(driver.primary_ctx_release, "cuDevicePrimaryCtxRelease_v2");
  bind(driver.ctx_push_current, "cuCtxPushCurrent_v2");
  bind(driver.ctx_pop_current, "cuCtxPopCurrent_v2");
  bind(driver.memcpy_dtoh, "cuMemcpyDtoH_v2");
  bind(driver.memcpy_htod, "cuMemcpyHtoD_v2");
  bind(driver.memset_d8, "cuMemsetD8_v2");
  bind(driver.ctx_synchronize, "cuCtxSynchronize");
  bind(driver.get_error_name, "cuGetErrorName");
  if (!complete) {
    driver.error = "libcuda.so.1 lacks calls of CUDA 11: the NVIDIA driver is too old";
  } else if (const CuResult result = driver.init(0); result != kSuccess) {
    driver.error = "the NVIDIA driver does not start: " + ErrorName(driver, result);
  }
  return driver;
}

const Driver& TheDriver() {
  static const Driver kDriver = Open();
  return kDriver;
}

template <class Work>
void InPrimaryContext(int device_id, const char* what, Work work) {
  const Driver& driver = TheDriver();
  if (!driver.error.empty()) throw std::runtime_error(std::string("cuda: ") + driver.error + ".");
  const auto check = [&](CuResult result, const char* call) {
    if (result == kSuccess) return;
    throw std::runtime_error(std::string("cuda: ") + what + " failed in " + call + ": " + ErrorName(driver, result) +
                             ".");
  };
  int device = 0;
  void* context = nullptr;
  check(driver.device_get(&device, device_id), "cuDeviceGet");
  check(driver.primary_ctx_retain(&context, device), "cuDevicePrimaryCtxRetain");
  CuResult result = driver.ctx_push_current(context);
  if (result == kSuccess) {
    result = work(driver);
    driver.ctx_pop_current(&context);
  }
  driver.primary_ctx_release(device);
  check(result, "the driver");
}

}  // namespace

CudaFacts ReadCudaFacts() {
  const Driver& driver = TheDriver();
  CudaFacts facts{driver.found, driver.error, 0, {}};
  if (!driver.error.empty()) return facts;
  driver.driver_get_version(&facts.driver_version);
  int count = 0;
  if (const CuResult result = driver.device_get_count(&count); result != kSuccess) {
    facts.error = "the NVIDIA driver lists no devices: " + ErrorName(driver, result);
    return facts;
  }
  for (int i = 0; i < count; ++i) {
    int device = 0;
    char name[256] = "";
    CudaDevice out{};
    size_t bytes = 0;
    if (driver.device_get(&device, i) != kSuccess) continue;
    driver.device_get_name(name, sizeof name, device);
    driver.device_get_attribute(&out.major, kCapabilityMajor, device);
    driver.device_get_attribute(&out.minor, kCapabilityMinor, device);
    driver.device_total_mem(&bytes, device);
    out.name = name;
    out.memory_bytes = bytes;
    facts.devices.push_back(out);
  }
  if (facts.devices.empty()) facts.error = "the NVIDIA driver sees no device";
  return facts;
}

void CopyFromDevice(int device_id, void* to, const void* from, size_t byte_count) {
  InPrimaryContext(device_id, "download", [=](const Driver& driver) {
    return driver.memcpy_dtoh(to, reinterpret_cast<unsigned long long>(from), byte_count);
  });
}

void CopyToDevice(int device_id, void* to, const void* from, size_t byte_count) {
  InPrimaryContext(device_id, "upload", [=](const Driver& driver) {
    return driver.memcpy_htod(reinterpret_cast<unsigned long long>(to), from, byte_count);
  });
}

void ZeroOnDevice(int device_id, void* to, size_t byte_count) {
  InPrimaryContext(device_id, "clearing", [=](const Driver& driver) {
    const CuResult result = driver.memset_d8(reinterpret_cast<unsigned long long>(to), 0, byte_count);
    // Unlike the copies it does not wait, and ORT's streams do not wait for it.
    return result == kSuccess ? driver.ctx_synchronize() : result;
  });
}

}  // namespace lowbit::host
