// Small helpers of the device tests: buffers, repeatable data, and a count of what was checked.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace lowbit::test {

#define CHECK_CUDA(call)                                                                          \
  do {                                                                                            \
    const cudaError_t e_ = (call);                                                                \
    if (e_ != cudaSuccess) {                                                                      \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
      std::exit(70);                                                                              \
    }                                                                                             \
  } while (0)

// Device memory with 256 guard bytes of 0xa5 behind it.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    CHECK_CUDA(cudaMalloc(&data_, count * sizeof(T) + kGuard));
    CHECK_CUDA(cudaMemset(data_, 0xa5, count * sizeof(T) + kGuard));  // poison: what no kernel writes shows
  }
  explicit DeviceArray(const std::vector<T>& v) : DeviceArray(v.size()) {
    if (count_) CHECK_CUDA(cudaMemcpy(data_, v.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }
  T* get() const { return static_cast<T*>(data_); }
  size_t size() const { return count_; }
  std::vector<T> host() const {
    std::vector<T> v(count_);
    if (count_) CHECK_CUDA(cudaMemcpy(v.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }
  // `count` pieces of `size` elements, the first at 0, each `stride` elements behind the one before.
  std::vector<T> pieces(size_t size, size_t stride, size_t count) const {
    std::vector<T> v(size * count);
    if (!v.empty()) {
      CHECK_CUDA(cudaMemcpy2D(v.data(), size * sizeof(T), data_, stride * sizeof(T), size * sizeof(T), count,
                              cudaMemcpyDeviceToHost));
    }
    return v;
  }
  bool guard_intact() const {
    uint8_t guard[kGuard];
    CHECK_CUDA(cudaMemcpy(guard, static_cast<uint8_t*>(data_) + count_ * sizeof(T), kGuard, cudaMemcpyDeviceToHost));
    for (uint8_t b : guard) {
      if (b != 0xa5) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 256;
  void* data_ = nullptr;
  size_t count_;
};

// float, __half and __nv_bfloat16 to binary32 and back, to nearest.
template <class T>
float ToFloat(T v) {
  return static_cast<float>(v);
}
template <class T>
T FromFloat(float v) {
  return static_cast<T>(v);
}

// SplitMix64: repeatable on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
  }
  int Between(int low, int high) { return low + static_cast<int>(Next() % static_cast<uint64_t>(high - low + 1)); }
  float Unit() { return static_cast<float>(Next() >> 40) * 0x1p-24f; }
  // Roughly normal: the sum of four uniforms.
  float Normal() { return (Unit() + Unit() + Unit() + Unit() - 2.0f) * 1.732f; }

 private:
  uint64_t state_;
};

struct Tally {
  int passed = 0, failed = 0;
  // Under a sanitizer, which is slow: only every n-th case.
  int every = 1;
  // Products: each kernel once, in the case that takes it round its rings most often; names what has been run. And only
  // kernels whose name contains this.
  bool each_kernel = false;
  std::string kernel;

  // To be asked once at the head of a case.
  bool Skips() { return ++cases_ % every != 0; }

  void Add(bool ok, const std::string& what) {
    if (ok) {
      ++passed;
      if (each_kernel) std::printf("ok   %s\n", what.c_str()), std::fflush(stdout);  // what has been covered
    } else if (++failed <= 40) {
      std::printf("FAIL %s\n", what.c_str());
      std::fflush(stdout);
    }
  }

 private:
  int cases_ = 0;
};

// `quick`: the small shapes only, for the sanitizers.
void TestRows(Tally& tally, bool quick);
void TestGemm(Tally& tally, bool quick);
void TestKv(Tally& tally, bool quick);
void TestLorc(Tally& tally, bool quick);
void TestOutlierColumns(Tally& tally, bool quick);

}  // namespace lowbit::test
