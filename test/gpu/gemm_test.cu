// Every QuantGemm kernel against a plain double-precision kernel that follows ops/formats/README.md line by line.
//
// Two kinds of data. "unit": all scales 1 and float32 out, so y is the integer sum itself and must be equal. "random":
// random scales, checked against the README's error bound.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "ops/quant-gemm/cuda/launch.h"
#include "test/gpu/check.h"

namespace lowbit::test {
namespace {

using cuda::DType;
using cuda::Format;
using cuda::GemmArgs;

__device__ double LoadFloat(DType type, const void* p, int64_t i) {
  if (type == DType::kF32) return static_cast<const float*>(p)[i];
  if (type == DType::kF16) return __half2float(static_cast<const __half*>(p)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
}

// y and how far a kernel may be from it, for rows first, first + step, ...
__global__ void ReferenceKernel(const GemmArgs args, int64_t first, int64_t step, double* y, double* bound) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t m = first + blockIdx.y * step;
  if (n >= args.n) return;
  const __half* b_scale = reinterpret_cast<const __half*>(args.b_scale);
  const int body = args.k - args.outliers;
  double total = 0, magnitude = 0;
  int segments = 0;
  for (int start = 0; start < args.k; ++segments) {
    const bool outlier = start >= body;
    const int size = args.group_size ? args.group_size : args.a_group_size ? args.a_group_size : body;
    const int length = outlier ? args.outliers : size;
    double sum = 0, absolute = 0;
    for (int k = start; k < start + length; ++k) {
      int w;
      if (outlier) {
        w = args.b_outlier[static_cast<int64_t>(n) * args.outliers + (k - body)];
      } else if (args.weight_format == Format::kS8) {
        w = static_cast<const int8_t*>(args.b)[static_cast<int64_t>(n) * body + k];
      } else {
        const int byte = static_cast<const uint8_t*>(args.b)[static_cast<int64_t>(n) * ((body + 1) / 2) + k / 2];
        w = k % 2 ? byte >> 4 : byte & 15;
        if (w > 7) w -= 16;
      }
      const double a = args.a_format == Format::kNone ? LoadFloat(args.type, args.a, m * args.k + k)
                                                      : static_cast<const int8_t*>(args.a)[m * args.k + k];
      sum += a * w;
      absolute += fabs(a * w);
    }
    double scale =
        outlier
            ? __half2float(reinterpret_cast<const __half*>(args.b_outlier_scale)[n])
            : __half2float(
                  b_scale[n * static_cast<int64_t>(args.b_scales()) + (args.group_size ? start / args.group_size : 0)]);
    if (args.a_scale) {
      const int index = outlier ? args.a_scales() - 1 : args.a_group_size ? start / args.a_group_size : 0;
      scale *= args.a_scale[m * args.a_scales() + index];
    }
    total += sum * scale;
    magnitude += fabs((args.a_scale ? sum : absolute) * scale);
    start += length;
  }
  if (args.bias) {
    const double v = LoadFloat(args.type, args.bias, n);
    total += v, magnitude += fabs(v);
  }
  if (args.residual) {
    const double v = LoadFloat(args.type, args.residual, m * args.n + n);
    total += v, magnitude += fabs(v);
  }
  double error = ((args.a_scale ? 0 : args.k) + segments + 4) * 0x1p-24 * magnitude + 0x1p-120;
  if (args.type == DType::kF16) error += (fabs(total) + error) * 0x1p-11 + 0x1p-25;
  if (args.type == DType::kBF16) error += (fabs(total) + error) * 0x1p-8;
  y[blockIdx.y * static_cast<int64_t>(args.n) + n] = total;
  bound[blockIdx.y * static_cast<int64_t>(args.n) + n] = error;
}

__device__ uint32_t Hash(uint64_t seed, uint64_t i) {
  uint64_t z = seed * 0x9e3779b97f4a7c15ull + i * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(z >> 32);
}

__global__ void FillBytes(uint8_t* p, size_t n, uint64_t seed, bool s4_range) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += gridDim.x * static_cast<size_t>(blockDim.x)) {
    const uint32_t h = Hash(seed, i);
    p[i] = s4_range ? static_cast<uint8_t>(static_cast<int>(h % 16) - 8) : static_cast<uint8_t>(h);
  }
}

template <class T>
__global__ void FillFloats(T* p, size_t n, uint64_t seed, float low, float high) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += gridDim.x * static_cast<size_t>(blockDim.x)) {
    p[i] = static_cast<T>(low + (high - low) * (Hash(seed, i) * 0x1p-32f));
  }
}

void FillTyped(DType type, void* p, size_t n, uint64_t seed, float low, float high) {
  if (type == DType::kF32) FillFloats<<<256, 256>>>(static_cast<float*>(p), n, seed, low, high);
  if (type == DType::kF16) FillFloats<<<256, 256>>>(static_cast<__half*>(p), n, seed, low, high);
  if (type == DType::kBF16) FillFloats<<<256, 256>>>(static_cast<__nv_bfloat16*>(p), n, seed, low, high);
}

struct Case {
  int64_t m;
  int n, k, outliers, group, a_group;
  Format weight, a;
  DType type;
  bool bias, residual, unit;
};

std::string Describe(const Case& c, const char* kernel) {
  char text[200];
  std::snprintf(text, sizeof text, "%s M %lld N %d K %d O %d G %d aG %d w%s a%s type %d%s%s%s", kernel,
                static_cast<long long>(c.m), c.n, c.k, c.outliers, c.group, c.a_group,
                c.weight == Format::kS4 ? "s4" : "s8",
                c.a == Format::kNone ? "float"
                : c.a == Format::kS4 ? "s4"
                                     : "s8",
                static_cast<int>(c.type), c.bias ? " bias" : "", c.residual ? " residual" : "", c.unit ? " unit" : "");
  return text;
}

float Typed(DType type, const uint8_t* p, size_t i) {
  if (type == DType::kF32) {
    float f;
    std::memcpy(&f, p + i * 4, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, p + i * 2, 2);
  if (type == DType::kF16) {
    __half h;
    std::memcpy(&h, &bits, 2);
    return __half2float(h);
  }
  __nv_bfloat16 h;
  std::memcpy(&h, &bits, 2);
  return __bfloat162float(h);
}

void RunCase(Tally& tally, const Case& c, int arch, uint64_t seed) {
  const size_t element = c.type == DType::kF32 ? 4 : 2;
  const int body = c.k - c.outliers;
  GemmArgs args;
  args.type = c.type, args.weight_format = c.weight, args.a_format = c.a;
  args.m = c.m, args.n = c.n, args.k = c.k, args.outliers = c.outliers;
  args.group_size = c.group, args.a_group_size = c.a_group;
  const bool codes = c.a != Format::kNone;
  DeviceArray<uint8_t> a(c.m * c.k * (codes ? 1 : element));
  DeviceArray<float> a_scale(c.m * args.a_scales());
  DeviceArray<uint8_t> b(static_cast<size_t>(c.n) * (c.weight == Format::kS4 ? (body + 1) / 2 : body));
  DeviceArray<__half> b_scale(static_cast<size_t>(c.n) * args.b_scales());
  DeviceArray<uint8_t> b_outlier(static_cast<size_t>(c.n) * c.outliers);
  DeviceArray<__half> b_outlier_scale(c.n);
  DeviceArray<uint8_t> bias(c.n * element), residual(c.m * c.n * element);
  if (codes) {
    FillBytes<<<256, 256>>>(a.get(), a.size(), seed + 1, c.a == Format::kS4);
    if (c.a == Format::kS4 && c.outliers) {  // outlier codes use all eight bits
      std::vector<uint8_t> host = a.host();
      for (size_t i = 0; i < host.size(); ++i) {
        if (static_cast<int>(i % c.k) >= body) host[i] = static_cast<uint8_t>(host[i] * 37 + i * 11);
      }
      CHECK_CUDA(cudaMemcpy(a.get(), host.data(), host.size(), cudaMemcpyHostToDevice));
    }
  } else {
    FillTyped(c.type, a.get(), c.m * c.k, seed + 1, c.unit ? 1.0f : -2.0f, c.unit ? 1.0f : 2.0f);
  }
  FillFloats<<<256, 256>>>(a_scale.get(), a_scale.size(), seed + 2, c.unit ? 1.0f : 0.01f, c.unit ? 1.0f : 0.2f);
  FillBytes<<<256, 256>>>(b.get(), b.size(), seed + 3, false);
  FillFloats<<<256, 256>>>(b_scale.get(), b_scale.size(), seed + 4, c.unit ? 1.0f : 0.001f, c.unit ? 1.0f : 0.02f);
  FillBytes<<<256, 256>>>(b_outlier.get(), b_outlier.size(), seed + 5, false);
  FillFloats<<<256, 256>>>(b_outlier_scale.get(), b_outlier_scale.size(), seed + 6, c.unit ? 1.0f : 0.0001f,
                           c.unit ? 1.0f : 0.002f);
  FillTyped(c.type, bias.get(), c.n, seed + 7, -1.0f, 1.0f);
  FillTyped(c.type, residual.get(), c.m * c.n, seed + 8, -1.0f, 1.0f);
  args.a = a.get();
  args.a_scale = codes ? a_scale.get() : nullptr;
  args.b = b.get();
  args.b_scale = reinterpret_cast<uint16_t*>(b_scale.get());
  args.b_outlier = reinterpret_cast<int8_t*>(b_outlier.get());
  args.b_outlier_scale = reinterpret_cast<uint16_t*>(b_outlier_scale.get());
  args.bias = c.bias ? bias.get() : nullptr;
  args.residual = c.residual ? residual.get() : nullptr;
  args.constant_weights = true;

  // Rows checked: all of a small product, at most 48 spread ones of a large.
  const int64_t step = c.m <= 160 ? 1 : c.m / 48 | 1;
  const int64_t checked = (c.m + step - 1) / step;
  DeviceArray<double> want(checked * c.n), bound(checked * c.n);
  const dim3 grid((c.n + 127) / 128, static_cast<unsigned>(checked));
  ReferenceKernel<<<grid, 128>>>(args, 0, step, want.get(), bound.get());
  CHECK_CUDA(cudaDeviceSynchronize());
  const auto y_want = want.host(), y_bound = bound.host();

  for (int i = 0; i < cuda::kGemmKernelCount; ++i) {
    const cuda::GemmKernel& kernel = cuda::kGemmKernels[i];
    if (cuda::ChooseGemmKernel(args, arch, kernel.name) != &kernel) continue;
    DeviceArray<uint8_t> y(c.m * c.n * element);
    args.y = y.get();
    const cudaError_t launched = kernel.run(args, nullptr);
    const cudaError_t done = cudaDeviceSynchronize();
    std::string where = Describe(c, kernel.name);
    if (launched != cudaSuccess || done != cudaSuccess) {
      std::printf("FAIL %s: launch %s, run %s\n", where.c_str(), cudaGetErrorString(launched),
                  cudaGetErrorString(done));
      if (done != cudaSuccess) std::exit(70);  // the context is lost
      tally.Add(false, where);
      continue;
    }
    const auto got = y.host();
    int64_t wrong = 0, first = -1;
    double worst = 0;
    for (int64_t r = 0; r < checked; ++r) {
      for (int64_t n = 0; n < c.n; ++n) {
        const double g = Typed(c.type, got.data(), r * step * c.n + n), w = y_want[r * c.n + n];
        const bool exact = c.unit && c.type == DType::kF32 && !c.bias && !c.residual && std::fabs(w) < 0x1p24;
        const double error = std::fabs(g - w);
        if (!(exact ? error == 0 : error <= y_bound[r * c.n + n])) {
          ++wrong;
          if (first < 0) {
            first = r * c.n + n;
            where += " at m " + std::to_string(r * step) + " n " + std::to_string(n) + ": " + std::to_string(g) +
                     ", expected " + std::to_string(w);
          }
        }
        worst = std::fmax(worst, error / y_bound[r * c.n + n]);
      }
    }
    if (wrong) where += " (" + std::to_string(wrong) + " wrong)";
    tally.Add(wrong == 0 && y.guard_intact(), where);
  }
}

}  // namespace

void TestGemm(Tally& tally, bool quick) {
  int major = 0, minor = 0;
  CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  CHECK_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  const int arch = major * 10 + minor;
  const Format s4 = Format::kS4, s8 = Format::kS8, none = Format::kNone;
  struct Shape {
    int n, k, outliers, group, a_group;
    Format weight, a;
  };
  // Every format, group and alignment that a kernel treats differently; N and K with tails.
  const Shape shapes[] = {
      {1, 16, 0, 0, 0, s4, s4},        {5, 17, 0, 0, 0, s4, s8},          {24, 256, 80, 16, 16, s4, s4},
      {33, 288, 96, 96, 96, s4, s4},   {40, 1024, 128, 128, 128, s4, s4}, {200, 640, 128, 128, 128, s4, s4},
      {264, 512, 0, 64, 64, s4, s4},   {136, 512, 128, 32, 32, s4, s4},   {520, 768, 0, 0, 0, s4, s4},
      {128, 768, 128, 0, 0, s4, s4},   {64, 1024, 0, 0, 128, s4, s4},     {264, 1024, 0, 256, 0, s4, s8},
      {256, 512, 0, 0, 0, s8, s8},     {72, 400, 0, 0, 0, s8, s8},        {24, 512, 64, 64, 64, s8, s8},
      {136, 640, 128, 128, 0, s8, s8}, {96, 512, 0, 128, 0, s4, none},    {40, 256, 0, 32, 0, s4, none},
      {72, 384, 0, 0, 0, s4, none},    {48, 320, 0, 64, 0, s8, none},     {17, 100, 0, 0, 0, s4, none}};
  uint64_t seed = 1000;
  for (const Shape& s : shapes) {
    for (const int64_t m : {1, 2, 7, 16, 17, 64, 65, 129, 300}) {
      if (quick && m != 1 && m != 17 && m != 129) continue;
      Case c{m, s.n, s.k, s.outliers, s.group, s.a_group, s.weight, s.a, DType::kF32, false, false, true};
      RunCase(tally, c, arch, ++seed);
      c.unit = false;
      for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
        c.type = type;
        c.bias = seed % 2, c.residual = seed % 3 == 0;
        RunCase(tally, c, arch, ++seed);
      }
    }
  }
  if (!quick) {
    // 1B, 7B and 70B LLaMA layers.
    const int sizes[][2] = {{2048, 2048},  {5632, 2048},  {2048, 5632},  {4096, 4096},
                            {11008, 4096}, {4096, 11008}, {28672, 8192}, {8192, 28672}};
    for (const auto& size : sizes) {
      for (const int64_t m : {1, 16, 64, 200, 2048}) {
        RunCase(tally, {m, size[0], size[1], 128, 128, 128, s4, s4, DType::kF32, false, false, true}, arch, ++seed);
        RunCase(tally, {m, size[0], size[1], 128, 128, 128, s4, s4, DType::kF16, true, true, false}, arch, ++seed);
        RunCase(tally, {m, size[0], size[1], 0, 0, 0, s8, s8, DType::kF16, true, true, false}, arch, ++seed);
        if (m <= 64)
          RunCase(tally, {m, size[0], size[1], 0, 128, 0, s4, none, DType::kF16, true, false, false}, arch, ++seed);
      }
    }
  }
  std::printf("QuantGemm and before: %d passed, %d failed\n", tally.passed, tally.failed);
}

}  // namespace lowbit::test
