// QuantGemm that quantizes floats itself (LLM.int8()): codes and scales exactly as on the host, products within the
// bound.
#include <cuda_fp16.h>

#include <cmath>

#include "ops/quant-gemm/cuda/outlier_columns.h"
#include "test/gpu/check.h"

namespace lowbit::test {
namespace {

using cuda::DType;
using cuda::Format;
using cuda::GemmArgs;
using cuda::SplitLayout;

struct Case {
  int64_t m;
  int n, k;
  float threshold;
  int large;  // columns that are large in some rows
  DType type;
};

std::string Title(const Case& c) {
  return "outlier columns m " + std::to_string(c.m) + " n " + std::to_string(c.n) + " k " + std::to_string(c.k) +
         " threshold " + std::to_string(c.threshold) + " large " + std::to_string(c.large) +
         (c.type == DType::kF16 ? " f16" : " f32");
}

// Floats as they are in the graph's type, and their bytes.
struct Floats {
  std::vector<float> values;
  std::vector<uint8_t> bytes;
  Floats(DType type, std::vector<float> wanted) : values(std::move(wanted)) {
    bytes.resize(values.size() * (type == DType::kF16 ? 2 : 4));
    if (type == DType::kF32) {
      std::memcpy(bytes.data(), values.data(), bytes.size());
      return;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const __half half = __float2half_rn(values[i]);
      std::memcpy(&bytes[2 * i], &half, 2);
      values[i] = __half2float(half);
    }
  }
};

float Load(DType type, const std::vector<uint8_t>& bytes, size_t i) {
  if (type == DType::kF16) {
    __half half;
    std::memcpy(&half, &bytes[2 * i], 2);
    return __half2float(half);
  }
  float value;
  std::memcpy(&value, &bytes[4 * i], 4);
  return value;
}

// ops/formats/README.md, "Float columns", steps 1 and 2.
struct Split {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int> columns;
};

Split Reference(const Case& c, const std::vector<float>& a) {
  Split split{std::vector<int8_t>(a.size()), std::vector<float>(static_cast<size_t>(c.m)), {}};
  std::vector<bool> found(c.k);
  for (size_t i = 0; i < a.size(); ++i) {
    if (c.threshold > 0 && std::fabs(a[i]) >= c.threshold) found[i % c.k] = true;
  }
  for (int k = 0; k < c.k; ++k) {
    if (found[k]) split.columns.push_back(k);
  }
  for (int64_t m = 0; m < c.m; ++m) {
    const float* row = &a[m * c.k];
    float amax = 0;
    for (int k = 0; k < c.k; ++k) amax = found[k] ? amax : std::fmax(amax, std::fabs(row[k]));
    const bool zeros = amax < 0x1p-100f;
    const float scale = zeros ? 1.0f : amax * (1.0f / 127.0f), inverse = 1.0f / scale;
    split.scale[m] = scale;
    for (int k = 0; k < c.k; ++k) {
      const float rounded = std::nearbyint(row[k] * inverse);
      split.q[m * c.k + k] =
          static_cast<int8_t>(found[k] || zeros ? 0 : std::fmin(127.0f, std::fmax(-128.0f, rounded)));
    }
  }
  return split;
}

void Check(Tally& tally, const Case& c) {
  if (tally.Skips()) return;
  Random random(static_cast<uint64_t>(c.m * 131 + c.k + c.large));
  const auto normals = [&](size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = random.Normal();
    return values;
  };
  std::vector<float> wanted = normals(static_cast<size_t>(c.m) * c.k);
  for (int i = 0; i < c.large; ++i) {
    const int k = (i * 61 + 5) % c.k;
    for (int64_t m = i % 3; m < c.m; m += 3) wanted[m * c.k + k] = i == 0 ? c.threshold : 20.0f + i % 7;
  }
  const Floats a(c.type, std::move(wanted)), bias(c.type, normals(c.n)),
      residual(c.type, normals(static_cast<size_t>(c.m) * c.n));
  std::vector<int8_t> b(static_cast<size_t>(c.n) * c.k);
  for (int8_t& code : b) code = static_cast<int8_t>(random.Between(-128, 127));
  std::vector<uint16_t> b_scale(c.n);
  std::vector<float> b_scale_values(c.n);
  for (int n = 0; n < c.n; ++n) {
    const __half half = __float2half_rn(0.01f * (0.1f + random.Unit()));
    std::memcpy(&b_scale[n], &half, 2);
    b_scale_values[n] = __half2float(half);
  }
  const SplitLayout layout(c.m, c.k);
  DeviceArray<uint8_t> a_device(a.bytes), bias_device(bias.bytes), residual_device(residual.bytes),
      y(residual.bytes.size()), scratch(layout.bytes);
  DeviceArray<int8_t> b_device(b);
  DeviceArray<uint16_t> b_scale_device(b_scale);
  GemmArgs args;
  args.type = c.type;
  args.weight_format = args.a_format = Format::kS8;
  args.m = c.m, args.n = c.n, args.k = c.k;
  args.a = a_device.get();
  args.b = b_device.get();
  args.b_scale = b_scale_device.get();
  args.bias = bias_device.get();
  args.residual = residual_device.get();
  args.y = y.get();
  CHECK_CUDA(cuda::LaunchSplitColumns(&args, c.threshold, scratch.get(), nullptr));
  CHECK_CUDA(cuda::ChooseGemmKernel(args, 90, nullptr)->run(args, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());

  const Split expected = Reference(c, a.values);
  const std::vector<uint8_t> parts = scratch.host(), out = y.host();
  tally.Add(std::memcmp(parts.data(), expected.q.data(), expected.q.size()) == 0, Title(c) + ": codes");
  tally.Add(std::memcmp(&parts[layout.scale], expected.scale.data(), expected.scale.size() * 4) == 0,
            Title(c) + ": scales");
  tally.Add(y.guard_intact() && scratch.guard_intact(), Title(c) + ": guards");
  bool good = true;
  for (int64_t m = 0; m < c.m && good; ++m) {
    for (int n = 0; n < c.n && good; ++n) {
      const size_t at = static_cast<size_t>(m * c.n + n);
      int64_t sum = 0;
      for (int k = 0; k < c.k; ++k) sum += expected.q[m * c.k + k] * b[static_cast<size_t>(n) * c.k + k];
      const double product = static_cast<double>(sum) * expected.scale[m] * b_scale_values[n];
      double term = residual.values[at], magnitude = std::fabs(term);
      for (int k : expected.columns) {
        const double each =
            static_cast<double>(a.values[m * c.k + k]) * b[static_cast<size_t>(n) * c.k + k] * b_scale_values[n];
        term += each, magnitude += std::fabs(each);
      }
      const double want = product + term + bias.values[n];
      double bound =
          (expected.columns.size() + 12) * 0x1p-24 * (magnitude + std::fabs(product) + std::fabs(bias.values[n]));
      if (c.type == DType::kF16) bound += (std::fabs(term) + std::fabs(want) + bound) * 0x1p-11 + 0x1p-24;
      good = std::fabs(Load(c.type, out, at) - want) <= bound;
      if (!good)
        std::printf("m %d n %d: %g, expected %g +- %g\n", static_cast<int>(m), n, Load(c.type, out, at), want, bound);
    }
  }
  tally.Add(good, Title(c) + ": y");
}

}  // namespace

void TestOutlierColumns(Tally& tally, bool quick) {
  for (DType type : {DType::kF32, DType::kF16}) {
    for (int64_t m : {1, 7, 65}) {
      Check(tally, {m, 17, 37, 6.0f, 2, type});
      Check(tally, {m, 100, 384, 6.0f, 5, type});
      Check(tally, {m, 33, 1040, 6.0f, 0, type});
      Check(tally, {m, 64, 256, 0.0f, 3, type});
      Check(tally, {m, 48, 48, 1e-6f, 0, type});  // every column, or nearly
    }
    if (!quick) Check(tally, {300, 512, 4096, 6.0f, 40, type});
  }
}

}  // namespace lowbit::test
