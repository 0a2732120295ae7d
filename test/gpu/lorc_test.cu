// QuantGemm's low-rank term against a plain double-precision kernel, for every format of activations; and that every
// product may take its residual from where it writes y.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cmath>

#include "ops/quant-gemm/cuda/lorc.h"
#include "test/gpu/check.h"

namespace lowbit::test {
namespace {

using cuda::DType;
using cuda::Format;
using cuda::GemmArgs;
using cuda::LorcArgs;

struct Case {
  int64_t m;
  int n, k, outliers, a_group;
  Format a;
  DType type;
  int rank, planes;
  bool residual;
};

__device__ double LoadFloat(DType type, const void* p, int64_t i) {
  if (type == DType::kF32) return static_cast<const float*>(p)[i];
  if (type == DType::kF16) return __half2float(static_cast<const __half*>(p)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
}

// The dequantized activation of token m, channel k.
__device__ double Activation(const GemmArgs& args, int64_t m, int k) {
  const int64_t at = m * args.k + k;
  if (args.a_format == Format::kNone) return LoadFloat(args.type, args.a, at);
  const bool outlier = k >= args.body();
  const int scale = outlier ? args.a_scales() - 1 : args.a_group_size ? k / args.a_group_size : 0;
  const uint8_t code = static_cast<const uint8_t*>(args.a)[at];
  double value = static_cast<int8_t>(code);
  if (!outlier && args.a_format == Format::kS4E4M3) value = code & 0x80 ? -(code & 0x7f) : code;
  if (!outlier && args.a_format == Format::kE4M3) value = __half2float(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3));
  if (!outlier && args.a_format == Format::kE5M2) value = __half2float(__nv_cvt_fp8_to_halfraw(code, __NV_E5M2));
  return value * args.a_scale[m * args.a_scales() + scale];
}

__global__ void ReferenceKernel(const GemmArgs args, const LorcArgs lorc, double* y, double* bound) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t m = blockIdx.y;
  if (n >= args.n) return;
  const auto value = [&](const int8_t* first, int64_t second, bool absolute) {
    const double rest = lorc.planes == 2 ? first[second] / 256.0 : 0.0;
    return absolute ? fabs(static_cast<double>(*first)) + fabs(rest) : *first + rest;
  };
  const double up_scale = __half2float(reinterpret_cast<const __half*>(lorc.up_scale)[n]);
  double total = 0, magnitude = 0;
  for (int r = 0; r < lorc.rank; ++r) {
    const int8_t* down = lorc.down + static_cast<int64_t>(r) * args.k;
    double sum = 0, absolute = 0;
    for (int k = 0; k < args.k; ++k) {
      const double a = Activation(args, m, k);
      sum += a * value(down + k, static_cast<int64_t>(lorc.rank) * args.k, false);
      absolute += fabs(a) * value(down + k, static_cast<int64_t>(lorc.rank) * args.k, true);
    }
    const int8_t* up = lorc.up + static_cast<int64_t>(n) * lorc.codes() + r;
    const double scale = __half2float(reinterpret_cast<const __half*>(lorc.down_scale)[r]) * up_scale;
    total += sum * scale * value(up, lorc.rank, false);
    magnitude += absolute * scale * value(up, lorc.rank, true);
  }
  if (args.residual) {
    const double v = LoadFloat(args.type, args.residual, m * args.n + n);
    total += v, magnitude += fabs(v);
  }
  double error = (args.k + args.a_scales() + lorc.codes() + 10) * 0x1p-24 * magnitude + 0x1p-120;
  if (args.type == DType::kF16) error += (fabs(total) + error) * 0x1p-11 + 0x1p-25;
  if (args.type == DType::kBF16) error += (fabs(total) + error) * 0x1p-8;
  y[m * args.n + n] = total;
  bound[m * args.n + n] = error;
}

std::vector<uint8_t> Bytes(Random& random, size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next());
  return bytes;
}

// Activations of a case: finite ones of every code.
std::vector<uint8_t> Activations(const Case& c, std::vector<uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size() && c.a != Format::kNone; ++i) {
    uint8_t& code = bytes[i];
    if (static_cast<int>(i % c.k) >= c.k - c.outliers) continue;
    if (c.a == Format::kS4) code = static_cast<uint8_t>(static_cast<int>(code % 16) - 8);
    if (c.a == Format::kS4E4M3) code = code % 16 == 15 ? 0x88 : code % 8 | (code % 16 > 8 ? 0x80 : 0);
    if (c.a == Format::kE4M3 && (code & 0x7f) == 0x7f) code ^= 1;
    if (c.a == Format::kE5M2 && (code & 0x7c) == 0x7c) code ^= 4;
  }
  return bytes;
}

std::vector<uint8_t> Typed(Random& random, DType type, size_t count) {
  std::vector<uint8_t> bytes(count * (type == DType::kF32 ? 4 : 2));
  for (size_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(static_cast<int>(random.Next() % 2001) - 1000) / 512.0f;
    const __half half = __float2half(value);
    const __nv_bfloat16 brain = __float2bfloat16(value);
    if (type == DType::kF32) std::memcpy(&bytes[i * 4], &value, 4);
    if (type == DType::kF16) std::memcpy(&bytes[i * 2], &half, 2);
    if (type == DType::kBF16) std::memcpy(&bytes[i * 2], &brain, 2);
  }
  return bytes;
}

std::vector<__half> Scales(Random& random, size_t count, float size) {
  std::vector<__half> scales(count);
  for (__half& scale : scales) scale = __float2half(size * (0.1f + static_cast<float>(random.Next() % 1000) / 1000.0f));
  return scales;
}

double ToDouble(DType type, const uint8_t* p, size_t i) {
  if (type == DType::kF32) return reinterpret_cast<const float*>(p)[i];
  if (type == DType::kF16) return __half2float(reinterpret_cast<const __half*>(p)[i]);
  return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(p)[i]);
}

// Every kernel of the main product, its residual apart from y and in y, and right behind the term: the same bits.
void TestInPlace(Tally& tally, const Case& c, GemmArgs args, const LorcArgs& lorc, Random& random, int arch,
                 const std::string& where) {
  if (c.a != Format::kS4 && c.a != Format::kS8 && c.a != Format::kNone) return;
  const size_t bytes = static_cast<size_t>(c.m) * c.n * (c.type == DType::kF32 ? 4 : 2);
  args.weight_format = c.a == Format::kS8 && c.a_group == 0 ? Format::kS8 : Format::kS4;
  args.group_size = c.a_group;
  DeviceArray<uint8_t> b(Bytes(random, static_cast<size_t>(c.n) * args.body()));
  DeviceArray<uint8_t> b_outlier(Bytes(random, static_cast<size_t>(c.n) * c.outliers + 1));
  DeviceArray<__half> b_scale(Scales(random, static_cast<size_t>(c.n) * args.b_scales(), 0.01f));
  DeviceArray<__half> b_outlier_scale(Scales(random, c.n, 0.001f));
  DeviceArray<uint8_t> residual(bytes), y(bytes);
  GemmArgs term = args;
  term.y = residual.get();
  CHECK_CUDA(cuda::LaunchLorc(term, lorc, nullptr));
  term.y = y.get();
  args.b = b.get();
  args.b_scale = reinterpret_cast<uint16_t*>(b_scale.get());
  args.b_outlier = reinterpret_cast<int8_t*>(b_outlier.get());
  args.b_outlier_scale = reinterpret_cast<uint16_t*>(b_outlier_scale.get());
  args.y = y.get();
  for (int i = 0; i < cuda::kGemmKernelCount; ++i) {
    const cuda::GemmKernel& kernel = cuda::kGemmKernels[i];
    if (cuda::ChooseGemmKernel(args, arch, kernel.name) != &kernel) continue;
    args.residual = residual.get();
    CHECK_CUDA(kernel.run(args, nullptr));
    const auto apart = y.host();
    CHECK_CUDA(cudaMemcpy(y.get(), residual.get(), bytes, cudaMemcpyDeviceToDevice));
    args.residual = y.get();
    CHECK_CUDA(kernel.run(args, nullptr));
    tally.Add(y.host() == apart, where + ": " + kernel.name + " with its residual in y");
    for (int again = 0; again < 3; ++again) {
      CHECK_CUDA(cuda::LaunchLorc(term, lorc, nullptr));
      CHECK_CUDA(kernel.run(args, nullptr));
    }
    tally.Add(y.host() == apart, where + ": " + kernel.name + " right behind the term");
  }
}

void RunCase(Tally& tally, const Case& c, int arch, uint64_t seed) {
  if (tally.Skips()) return;
  Random random(seed);
  const bool codes = c.a != Format::kNone;
  const size_t element = c.type == DType::kF32 ? 4 : 2, outputs = static_cast<size_t>(c.m) * c.n;
  GemmArgs args;
  args.type = c.type, args.a_format = c.a, args.m = c.m, args.n = c.n, args.k = c.k;
  args.outliers = c.outliers, args.a_group_size = c.a_group;
  LorcArgs lorc;
  lorc.rank = c.rank, lorc.planes = c.planes;
  const size_t inputs = static_cast<size_t>(c.m) * c.k;
  DeviceArray<uint8_t> a(codes ? Activations(c, Bytes(random, inputs)) : Typed(random, c.type, inputs));
  std::vector<float> scales(static_cast<size_t>(c.m) * args.a_scales());
  for (float& scale : scales) scale = 0.01f * (1.0f + static_cast<float>(random.Next() % 100));
  DeviceArray<float> a_scale(scales), inner(static_cast<size_t>(c.m) * lorc.codes());
  DeviceArray<uint8_t> down(Bytes(random, static_cast<size_t>(lorc.codes()) * c.k));
  DeviceArray<uint8_t> up(Bytes(random, static_cast<size_t>(lorc.codes()) * c.n));
  DeviceArray<__half> down_scale(Scales(random, c.rank, 0.001f)), up_scale(Scales(random, c.n, 0.001f));
  DeviceArray<uint8_t> residual(Typed(random, c.type, outputs)), y(outputs * element);
  args.a = a.get(), args.a_scale = codes ? a_scale.get() : nullptr;
  args.residual = c.residual ? residual.get() : nullptr, args.y = y.get();
  lorc.down = reinterpret_cast<int8_t*>(down.get()), lorc.up = reinterpret_cast<int8_t*>(up.get());
  lorc.down_scale = reinterpret_cast<uint16_t*>(down_scale.get());
  lorc.up_scale = reinterpret_cast<uint16_t*>(up_scale.get());
  lorc.inner = inner.get();

  char text[160];
  std::snprintf(text, sizeof text, "low-rank term M %lld N %d K %d O %d aG %d format %d type %d rank %d x %d%s",
                static_cast<long long>(c.m), c.n, c.k, c.outliers, c.a_group, static_cast<int>(c.a),
                static_cast<int>(c.type), c.rank, c.planes, c.residual ? " residual" : "");
  std::string where = text;
  DeviceArray<double> want(outputs), bound(outputs);
  ReferenceKernel<<<dim3((c.n + 127) / 128, static_cast<unsigned>(c.m)), 128>>>(args, lorc, want.get(), bound.get());
  CHECK_CUDA(cudaGetLastError());
  CHECK_CUDA(cuda::LaunchLorc(args, lorc, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  const auto got = y.host();
  const auto y_want = want.host(), y_bound = bound.host();
  size_t wrong = 0;
  for (size_t i = 0; i < outputs; ++i) {
    const double g = ToDouble(c.type, got.data(), i);
    if (std::fabs(g - y_want[i]) <= y_bound[i]) continue;
    if (wrong++ == 0) {
      where += " at m " + std::to_string(i / c.n) + " n " + std::to_string(i % c.n) + ": " + std::to_string(g) +
               ", expected " + std::to_string(y_want[i]) + " ± " + std::to_string(y_bound[i]);
    }
  }
  CHECK_CUDA(cuda::LaunchLorc(args, lorc, nullptr));
  const bool again = y.host() == got;
  tally.Add(wrong == 0 && again && y.guard_intact() && inner.guard_intact(), where + (again ? "" : ", not repeatable"));
  TestInPlace(tally, c, args, lorc, random, arch, text);
}

}  // namespace

void TestLorc(Tally& tally, bool quick) {
  int major = 0, minor = 0;
  CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  CHECK_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  struct Shape {
    int n, k, outliers, a_group;
    Format a;
    int rank, planes;
  };
  const Shape shapes[] = {{264, 512, 128, 128, Format::kS4, 8, 1},   {33, 101, 4, 0, Format::kS8, 3, 2},
                          {256, 512, 0, 0, Format::kS8, 8, 2},       {136, 640, 128, 128, Format::kS8, 64, 1},
                          {40, 272, 16, 64, Format::kS4E4M3, 16, 1}, {72, 384, 0, 0, Format::kE4M3, 8, 2},
                          {65, 416, 32, 128, Format::kE5M2, 5, 1},   {96, 512, 0, 0, Format::kNone, 8, 1},
                          {17, 100, 0, 0, Format::kNone, 1, 2},      {1024, 1024, 0, 0, Format::kS8, 256, 2}};
  uint64_t seed = 5000;
  for (const Shape& s : shapes) {
    for (const int64_t m : {1, 2, 16, 17, 129}) {
      if (quick && m != 1 && m != 17) continue;
      for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
        ++seed;
        RunCase(tally, {m, s.n, s.k, s.outliers, s.a_group, s.a, type, s.rank, s.planes, seed % 2 == 0},
                major * 10 + minor, seed);
      }
    }
  }
  std::printf("low-rank term and before: %d passed, %d failed\n", tally.passed, tally.failed);
}

}  // namespace lowbit::test
