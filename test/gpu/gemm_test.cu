// Every QuantGemm kernel against a plain double-precision kernel that follows ops/formats/README.md line by line.
//
// Two kinds of data. "unit": all scales 1 and float32 out, so with integer codes y is the integer sum itself and must
// be equal; "unit powers": the weights' scales are 1 ... 2^-13, so that y is still exact. "random": random scales,
// checked against the README's error bound.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/sign_magnitude.h"
#include "test/gpu/check.h"
#include "test/gpu/formats.h"
#include "test/gpu/gemm_data.cuh"
#include "test/gpu/gemm_reference.cuh"

namespace lowbit::test {
namespace {

using namespace gemm;

struct Case {
  int64_t m;
  int n, k, outliers, group, a_group;
  Format weight, a;
  DType type;
  bool bias, residual, unit;
  bool powers = false;  // scales in ratios of powers of two
};

std::string Describe(const Case& c, const char* kernel) {
  char text[200];
  std::snprintf(text, sizeof text, "%s M %lld N %d K %d O %d G %d aG %d w%s a%s type %d%s%s%s%s", kernel,
                static_cast<long long>(c.m), c.n, c.k, c.outliers, c.group, c.a_group, NameOf(c.weight), NameOf(c.a),
                static_cast<int>(c.type), c.bias ? " bias" : "", c.residual ? " residual" : "", c.unit ? " unit" : "",
                c.powers ? " powers" : "");
  return text;
}

// One way to compute a case.
struct Way {
  std::string name;
  bool rough;  // held to rough_bound
  std::function<cudaError_t(const GemmArgs& args, void* scratch)> run;
  size_t scratch_bytes = 0;
};

// Every kernel that takes these facts, in every shape that can be asked for; of pointers only the alignment matters.
std::vector<Way> WaysOf(const GemmArgs& args, int arch) {
  std::vector<Way> ways;
  for (int i = 0; i < cuda::kGemmKernelCount; ++i) {
    const cuda::GemmKernel& kernel = cuda::kGemmKernels[i];
    if (cuda::ChooseGemmKernel(args, arch, kernel.name) != &kernel) continue;
    const bool rough = kernel.run == cuda::LaunchFp8Sm90 || kernel.run == cuda::LaunchFp8FoldedSm90 ||
                       kernel.run == cuda::LaunchBatchMinifloat || kernel.run == cuda::LaunchWeightOnlySm90;
    ways.push_back({kernel.name, rough, [&kernel](const GemmArgs& all, void*) { return kernel.run(all, nullptr); }});
  }
  if (const size_t bytes = cuda::SignMagnitudeBytes(args, arch)) {
    const auto run = [arch](const GemmArgs& all, void* scratch) {
      GemmArgs converted = all;
      const cudaError_t launched = cuda::LaunchSignMagnitude(&converted, scratch, nullptr);
      return launched ? launched : cuda::ChooseGemmKernel(converted, arch, nullptr)->run(converted, nullptr);
    };
    ways.push_back({"as sign and magnitude", true, run, bytes});
  }
  if (arch != 90) return ways;
  const auto named = [](const char* kernel, int tokens, int split) {
    return kernel + (" " + std::to_string(tokens)) + " x " + std::to_string(split);
  };
  for (const cuda::WideShape& shape : cuda::kWideShapes) {
    if (cuda::AcceptsS8Sm90(args)) {
      ways.push_back({named("s8", shape.tokens, shape.split), false,
                      [shape](const GemmArgs& all, void*) { return cuda::LaunchS8Sm90With(all, shape, nullptr); }});
    }
    if (cuda::AcceptsWeightOnlySm90(args)) {
      ways.push_back({named("f16s4", shape.tokens, shape.split), true, [shape](const GemmArgs& all, void*) {
                        return cuda::LaunchWeightOnlySm90With(all, shape, nullptr);
                      }});
    }
  }
  if (!cuda::AcceptsFp8Sm90(args)) return ways;
  for (const cuda::Fp8Shape& shape : cuda::kFp8Shapes) {
    const std::string channels = shape.channels == 128 ? "" : " of " + std::to_string(shape.channels) + " channels";
    ways.push_back({named("fp8", shape.tokens, shape.split) + channels, true,
                    [shape](const GemmArgs& all, void*) { return cuda::LaunchFp8Sm90With(all, shape, nullptr); }});
  }
  return ways;
}

// What a case asks of the kernels, without its data.
GemmArgs ArgsOf(const Case& c) {
  GemmArgs args;
  args.type = c.type, args.weight_format = c.weight, args.a_format = c.a;
  args.m = c.m, args.n = c.n, args.k = c.k, args.outliers = c.outliers;
  args.group_size = c.group, args.a_group_size = c.a_group;
  args.powers_of_two = c.powers, args.constant_weights = true;
  return args;
}

// What makes a kernel another one: its name, whether weights are nibbles, the kind of activations, segments, and for
// kernels without tiles of a fixed size the tokens. The portable kernel is one.
std::string KernelOf(const Way& way, const GemmArgs& args) {
  if (way.name == "portable__cuda") return way.name;
  const bool tiled = way.name.find("wgmma") != std::string::npos || way.name.find(" x ") != std::string::npos;
  const int segment = way.name == "s8s4_wgmma__sm90" ? std::min(args.segment(), 128) : 1;
  return way.name + (args.nibbles() ? " nibbles" : " bytes") + " a" +
         (args.integers() ? "int" : NameOf(args.a_format)) + (args.powers_of_two ? " powers" : "") +
         (args.segments() == 1 ? " whole" : " groups " + std::to_string(segment)) +
         (tiled ? "" : " m " + std::to_string(args.m));
}

void RunCase(Tally& tally, const Case& c, const std::vector<Way>& ways, uint64_t seed) {
  const size_t element = c.type == DType::kF32 ? 4 : 2;
  const int body = c.k - c.outliers;
  GemmArgs args = ArgsOf(c);
  const bool codes = c.a != Format::kNone;
  DeviceArray<uint8_t> a(c.m * c.k * (codes ? 1 : element));
  DeviceArray<float> a_scale(c.m * args.a_scales());
  DeviceArray<uint8_t> b(static_cast<size_t>(c.n) * (IsNibble(c.weight) ? (body + 1) / 2 : body));
  DeviceArray<__half> b_scale(static_cast<size_t>(c.n) * args.b_scales());
  DeviceArray<uint8_t> b_outlier(static_cast<size_t>(c.n) * c.outliers);
  DeviceArray<__half> b_outlier_scale(c.n);
  DeviceArray<uint8_t> bias(c.n * element), residual(c.m * c.n * element);
  if (codes) {
    FillCodes<<<256, 256>>>(a.get(), a.size(), seed + 1, c.a, c.k, body);
  } else {
    FillTyped(c.type, a.get(), c.m * c.k, seed + 1, c.unit ? 1.0f : -2.0f, c.unit ? 1.0f : 2.0f);
  }
  FillFloats<<<256, 256>>>(a_scale.get(), a_scale.size(), seed + 2, c.unit ? 1.0f : 0.01f, c.unit ? 1.0f : 0.2f);
  FillCodes<<<256, 256>>>(b.get(), b.size(), seed + 3, IsNibble(c.weight) ? Format::kS8 : c.weight, body, body);
  FillFloats<<<256, 256>>>(b_scale.get(), b_scale.size(), seed + 4, c.unit ? 1.0f : 0.001f, c.unit ? 1.0f : 0.02f);
  if (c.powers) {
    FillPowers<<<256, 256>>>(b_scale.get(), b_scale.size(), seed + 4, args.b_scales(), c.unit || seed % 2);
  }
  FillCodes<<<256, 256>>>(b_outlier.get(), b_outlier.size(), seed + 5, Format::kS8, 1, 1);
  const float unit = c.powers ? 0x1p-13f : 1.0f;
  FillFloats<<<256, 256>>>(b_outlier_scale.get(), b_outlier_scale.size(), seed + 6, c.unit ? unit : 0.0001f,
                           c.unit ? unit : 0.002f);
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

  // Rows checked: all of a small product, at most 48 spread ones of a large.
  const int64_t step = c.m <= 160 ? 1 : c.m / 48 | 1;
  const int64_t checked = (c.m + step - 1) / step;
  DeviceArray<double> want(checked * c.n), bound(checked * c.n), rough_bound(checked * c.n);
  const dim3 grid((c.n + 127) / 128, static_cast<unsigned>(checked));
  ReferenceKernel<<<grid, 128>>>(args, 0, step, want.get(), bound.get(), rough_bound.get());
  CHECK_CUDA(cudaDeviceSynchronize());
  const auto y_want = want.host(), y_bound = bound.host(), y_rough_bound = rough_bound.host();

  for (const Way& way : ways) {
    DeviceArray<uint8_t> y(c.m * c.n * element), scratch(way.scratch_bytes);
    args.y = y.get();
    const cudaError_t launched = way.run(args, scratch.get());
    const cudaError_t done = cudaDeviceSynchronize();
    std::string where = Describe(c, way.name.c_str());
    if (launched != cudaSuccess || done != cudaSuccess) {
      std::printf("FAIL %s: launch %s, run %s\n", where.c_str(), cudaGetErrorString(launched),
                  cudaGetErrorString(done));
      if (done != cudaSuccess) std::exit(70);  // the context is lost
      tally.Add(false, where);
      continue;
    }
    const auto got = y.pieces(c.n * element, step * c.n * element, checked);
    int64_t wrong = 0;
    for (int64_t r = 0; r < checked; ++r) {
      for (int64_t n = 0; n < c.n; ++n) {
        const double g = Typed(c.type, got.data(), r * c.n + n), w = y_want[r * c.n + n];
        const bool exact = args.integers() && c.unit && c.type == DType::kF32 && !c.bias && !c.residual &&
                           std::fabs(w) < 0x1p24 * unit && (!c.powers || c.k <= 2048);  // and so are all partial sums
        const double error = std::fabs(g - w);
        if (exact ? error == 0 : error <= (way.rough ? y_rough_bound : y_bound)[r * c.n + n]) continue;
        if (++wrong > 1) continue;
        where += " at m " + std::to_string(r * step) + " n " + std::to_string(n) + ": " + std::to_string(g) +
                 ", expected " + std::to_string(w);
      }
    }
    if (wrong) where += " (" + std::to_string(wrong) + " wrong)";
    tally.Add(wrong == 0 && y.guard_intact(), where);
  }
}

std::vector<Case> Cases(bool quick) {
  std::vector<Case> cases;
  const Format s4 = Format::kS4, s8 = Format::kS8, none = Format::kNone, x4 = Format::kS4E4M3;
  const Format e2m1 = Format::kE2M1, e3m0 = Format::kE3M0, bnb = Format::kBnbFp4, e4m3 = Format::kE4M3,
               e5m2 = Format::kE5M2;
  struct Shape {
    int n, k, outliers, group, a_group;
    Format weight, a;
    bool powers = false;
  };
  // Every format, group and alignment that a kernel treats differently; N and K with tails.
  const Shape shapes[] = {{1, 16, 0, 0, 0, s4, s4},
                          {5, 17, 0, 0, 0, s4, s8},
                          {24, 256, 80, 16, 16, s4, s4},
                          {33, 288, 96, 96, 96, s4, s4},
                          {40, 1024, 128, 128, 128, s4, s4},
                          {200, 640, 128, 128, 128, s4, s4},
                          {264, 512, 0, 64, 64, s4, s4},
                          {136, 512, 128, 32, 32, s4, s4},
                          {520, 768, 0, 0, 0, s4, s4},
                          {128, 768, 128, 0, 0, s4, s4},
                          {64, 1024, 0, 0, 128, s4, s4},
                          {264, 1024, 0, 256, 0, s4, s8},
                          {256, 512, 0, 0, 0, s8, s8},
                          {72, 400, 0, 0, 0, s8, s8},
                          {392, 1040, 0, 0, 0, s8, s8},
                          {24, 512, 64, 64, 64, s8, s8},
                          {136, 640, 128, 128, 0, s8, s8},
                          {96, 512, 0, 128, 0, s4, none},
                          {40, 256, 0, 32, 0, s4, none},
                          {72, 384, 0, 0, 0, s4, none},
                          {200, 640, 0, 32, 0, s4, none},
                          {264, 1152, 0, 64, 0, s4, none},
                          {392, 1152, 0, 128, 0, s4, none},
                          {48, 320, 0, 64, 0, s8, none},
                          {17, 100, 0, 0, 0, s4, none},
                          {40, 1024, 128, 128, 128, s4, x4},
                          {200, 640, 128, 128, 128, s4, x4},
                          {136, 512, 128, 32, 32, s4, x4},
                          {520, 768, 0, 0, 0, s4, x4},
                          {264, 1152, 64, 0, 0, s4, x4},
                          {24, 512, 64, 64, 64, s8, x4},
                          {264, 768, 0, 128, 0, e2m1, e4m3},
                          {200, 640, 128, 128, 0, e2m1, e4m3},
                          {40, 512, 0, 0, 0, e3m0, e4m3},
                          {136, 512, 0, 128, 0, bnb, e4m3},
                          {72, 512, 0, 256, 0, e2m1, e5m2},
                          {200, 640, 0, 128, 0, e4m3, e4m3},
                          {264, 1024, 0, 0, 0, e4m3, e5m2},
                          {128, 512, 0, 128, 128, e4m3, e4m3},
                          {136, 640, 128, 128, 0, s4, e4m3},
                          {33, 288, 0, 96, 0, e2m1, e4m3},
                          {264, 1152, 0, 128, 0, e2m1, e4m3, true},
                          {136, 640, 0, 128, 0, e2m1, e5m2, true},
                          {520, 768, 0, 256, 0, e2m1, e4m3, true},
                          {40, 1152, 128, 128, 128, s4, x4, true},
                          {264, 1280, 256, 256, 256, s4, x4, true},
                          {520, 1152, 0, 128, 128, s4, x4, true},
                          {200, 640, 128, 128, 128, s4, s4, true},
                          {136, 960, 64, 0, 128, s4, x4},
                          {200, 640, 0, 128, 128, e2m1, e4m3, true},
                          {136, 768, 128, 128, 128, e2m1, x4, true},
                          {24, 448, 0, 0, 0, e2m1, e4m3},
                          {24, 256, 0, 0, 0, e2m1, s8},
                          {17, 100, 0, 0, 0, e2m1, none},
                          {64, 512, 0, 128, 128, e2m1, s4},
                          {40, 256, 0, 64, 0, s8, e4m3},
                          {24, 128, 0, 0, 0, e4m3, none}};
  for (const Shape& s : shapes) {
    for (const int64_t m : {1, 2, 4, 7, 16, 17, 64, 65, 129, 300}) {
      if (quick && m != 1 && m != 17 && m != 129) continue;
      Case c{m, s.n, s.k, s.outliers, s.group, s.a_group, s.weight, s.a, DType::kF32, false, false, true, s.powers};
      cases.push_back(c);
      c.unit = false;
      for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
        c.type = type;
        const size_t seed = 1000 + cases.size();
        c.bias = seed % 2, c.residual = seed % 3 == 0;
        cases.push_back(c);
      }
    }
  }
  if (!quick) {
    // 1B, 7B and 70B LLaMA layers.
    const int sizes[][2] = {{2048, 2048},  {5632, 2048},  {2048, 5632},  {4096, 4096},
                            {11008, 4096}, {4096, 11008}, {28672, 8192}, {8192, 28672}};
    for (const auto& size : sizes) {
      for (const int64_t m : {1, 16, 64, 200, 2048}) {
        cases.push_back({m, size[0], size[1], 128, 128, 128, s4, s4, DType::kF32, false, false, true});
        cases.push_back({m, size[0], size[1], 128, 128, 128, s4, s4, DType::kF16, true, true, false});
        cases.push_back({m, size[0], size[1], 128, 128, 128, s4, x4, DType::kF32, false, false, true});
        cases.push_back({m, size[0], size[1], 128, 128, 128, s4, x4, DType::kF16, true, true, false});
        cases.push_back({m, size[0], size[1], 128, 128, 128, s4, x4, DType::kF32, false, false, true, true});
        cases.push_back({m, size[0], size[1], 128, 128, 128, s4, x4, DType::kF16, true, true, false, true});
        cases.push_back({m, size[0], size[1], 0, 128, 0, e2m1, e4m3, DType::kF16, true, true, false});
        cases.push_back({m, size[0], size[1], 0, 128, 0, e2m1, e4m3, DType::kF16, true, true, false, true});
        cases.push_back({m, size[0], size[1], 0, 0, 0, s8, s8, DType::kF16, true, true, false});
        cases.push_back({m, size[0], size[1], 0, 128, 0, s4, none, DType::kF16, true, false, false});
      }
    }
  }
  return cases;
}

}  // namespace

void TestGemm(Tally& tally, bool quick) {
  int major = 0, minor = 0;
  CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  CHECK_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  const int arch = major * 10 + minor;
  const std::vector<Case> cases = Cases(quick);
  std::vector<std::vector<Way>> ways;
  for (const Case& c : cases) {
    ways.push_back(WaysOf(ArgsOf(c), arch));
    const auto other = [&](const Way& way) { return KernelOf(way, ArgsOf(c)).find(tally.kernel) == std::string::npos; };
    ways.back().erase(std::remove_if(ways.back().begin(), ways.back().end(), other), ways.back().end());
  }
  if (tally.each_kernel) {
    // The case of each kernel: most steps along K, results by way of shared memory, of those the fewest results.
    std::map<std::string, size_t> longest;
    const auto order = [&](size_t i) {
      const Case& c = cases[i];
      return std::tuple(c.k, c.type != DType::kF32, c.residual, -c.m * c.n);
    };
    for (size_t i = 0; i < cases.size(); ++i) {
      for (const Way& way : ways[i]) {
        size_t& at = longest.try_emplace(KernelOf(way, ArgsOf(cases[i])), i).first->second;
        if (order(i) > order(at)) at = i;
      }
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      const auto other = [&](const Way& way) { return longest[KernelOf(way, ArgsOf(cases[i]))] != i; };
      ways[i].erase(std::remove_if(ways[i].begin(), ways[i].end(), other), ways[i].end());
    }
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    if (!ways[i].empty() && !tally.Skips()) RunCase(tally, cases[i], ways[i], 1001 + i);
  }
  std::printf("QuantGemm and before: %d passed, %d failed\n", tally.passed, tally.failed);
}

}  // namespace lowbit::test
