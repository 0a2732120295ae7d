// Row operators against a scalar host implementation of ops/formats/README.md: codes, scales, sums and norms bit for
// bit. The host side is compiled with -ffp-contract=off.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "ops/rows/cuda/norm_quantize.h"
#include "ops/rows/cuda/quantize.h"
#include "test/gpu/check.h"
#include "test/gpu/formats.h"

namespace lowbit::test {
namespace {

using cuda::Activation;
using cuda::DType;
using cuda::Format;
using cuda::RowFormat;

uint32_t Bits(float f) {
  uint32_t b;
  std::memcpy(&b, &f, 4);
  return b;
}
float FromBits(uint32_t b) {
  float f;
  std::memcpy(&f, &b, 4);
  return f;
}

float ExpRef(float x) {
  if (x != x) return x;
  if (x <= -86.0f) return 0.0f;
  const float c = x >= 88.0f ? 88.0f : x;
  const float n = std::nearbyintf(c * 1.44269502f);
  const float high = c - n * 0.693359375f;
  const float r = high - n * -2.12194440e-4f;
  const float coefficients[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  float p = 1.0f / 720;
  for (float k : coefficients) p = p * r + k;
  return std::ldexp(p, static_cast<int>(n));
}

float ActivateRef(Activation kind, float x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x > 0 || x != x ? x : 0.0f;
    case Activation::kSilu:
      return x / (1.0f + ExpRef(-x));
    case Activation::kGeluTanh: {
      const float cube = x * x * x;
      const float u = 0.7978845608f * (x + 0.044715f * cube);
      return x / (1.0f + ExpRef(-(u + u)));
    }
    case Activation::kGelu: {
      const float z = std::fabs(x) * 0.707106781f;
      const float t = 1.0f / (1.0f + 0.3275911f * z);
      float e = 1.061405429f;
      for (float k : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) e = e * t + k;
      e = e * t * ExpRef(-(z * z));
      const float half = 0.5f * e;
      return x * (x < 0 ? half : 1.0f - half);
    }
  }
  return x;
}

float LaneSum(const std::vector<float>& v) {
  std::vector<float> lanes(1024, 0.0f);
  for (size_t i = 0; i < v.size(); ++i) lanes[i % 1024] += v[i];
  for (size_t n = 512; n > 0; n /= 2) {
    for (size_t j = 0; j < n; ++j) lanes[j] = lanes[2 * j] + lanes[2 * j + 1];
  }
  return lanes[0];
}

// The nearest code, by trying them all; of two equally near ones the even one. Zero keeps its sign.
int NearestMinifloat(Format format, float x) {
  const int finite = format == Format::kE4M3 ? 0x7e : 0x7b;
  const double size = std::min(std::fabs(static_cast<double>(x)), static_cast<double>(LargestOf(format)));
  int best = 0;
  for (int code = 1; code <= finite; ++code) {
    const double before = std::fabs(ValueOf(format, best) - size), now = std::fabs(ValueOf(format, code) - size);
    if (now < before || (now == before && code % 2 == 0)) best = code;
  }
  return std::signbit(x) ? best | 0x80 : best;
}

int CodeRef(Format format, float x) {
  if (format == Format::kE4M3 || format == Format::kE5M2) return NearestMinifloat(format, x);
  const float qmax = LargestOf(format);
  const int code = static_cast<int>(std::min(std::max(std::nearbyintf(x), -qmax - 1), qmax));
  return format == Format::kS4E4M3 && code < 0 ? -code | 0x80 : code;
}

void QuantizeRef(const std::vector<float>& row, const RowFormat& f, const std::vector<int32_t>& order, int8_t* q,
                 float* scale) {
  for (int s = 0, start = 0; start < f.channels; ++s) {
    const bool outlier = start >= f.body();
    const int length = outlier ? f.outliers : f.group_size ? f.group_size : f.body();
    const Format format = outlier ? Format::kS8 : f.format;
    uint32_t amax = 0;
    const auto at = [&](int k) { return row[order.empty() ? k : order[k]]; };
    for (int k = start; k < start + length; ++k) amax = std::max(amax, Bits(at(k)) & 0x7fffffffu);
    const bool bad = amax >= 0x7f800000u, zero = amax < Bits(0x1p-100f);
    const float factor = outlier ? 1.0f / 127.0f : f.clip_over_qmax;
    scale[s] = bad ? FromBits(0x7fc00000u) : zero ? 1.0f : FromBits(amax) * factor;
    const float inv = 1.0f / scale[s];
    for (int k = start; k < start + length; ++k) {
      q[k] = bad || zero ? 0 : static_cast<int8_t>(CodeRef(format, at(k) * inv));
    }
    start += length;
  }
}

// Values that exercise every rule of the README, by row: normal, zeros, one outlier, tiny, denormal, NaN, infinite.
template <class T>
std::vector<T> MakeRows(Random& random, int64_t rows, int channels) {
  std::vector<T> x(rows * channels);
  for (int64_t m = 0; m < rows; ++m) {
    for (int k = 0; k < channels; ++k) {
      float v = random.Normal();
      if (m % 8 == 1) v = 0.0f;
      if (m % 8 == 2 && k == channels / 2) v = 60000.0f;
      if (m % 8 == 3) v *= 1e-6f;
      if (m % 8 == 4) v = k % 3 ? -0.0f : FromBits(1 + static_cast<uint32_t>(random.Next() % 1000));
      if (m % 8 == 5 && k == channels / 3) v = NAN;
      if (m % 8 == 6 && k == channels - 1) v = -INFINITY;
      x[m * channels + k] = FromFloat<T>(v);
    }
  }
  return x;
}

std::vector<int32_t> Permutation(Random& random, int channels) {
  std::vector<int32_t> p(channels);
  for (int i = 0; i < channels; ++i) p[i] = i;
  for (int i = channels - 1; i > 0; --i) std::swap(p[i], p[random.Between(0, i)]);
  return p;
}

template <class V>
bool Same(const std::vector<V>& got, const std::vector<V>& want, const char* name, std::string& where) {
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::memcmp(&got[i], &want[i], sizeof(V)) != 0) {
      where += std::string(" ") + name + " differs first at " + std::to_string(i);
      return false;
    }
  }
  return true;
}

// A NaN's payload is free; equal otherwise.
template <class T>
void CanonNaN(std::vector<T>& v) {
  for (T& x : v) {
    if (ToFloat(x) != ToFloat(x)) x = FromFloat<T>(NAN);
  }
}

template <class T>
void TestNorm(Tally& tally, int64_t rows, RowFormat f, bool layer, bool reorder, bool residual, bool bias, bool outputs,
              uint64_t seed) {
  if (tally.Skips()) return;
  Random random(seed);
  const int channels = f.channels;
  const auto x = MakeRows<T>(random, rows, channels);
  std::vector<T> res(rows * channels), weight(channels), b(channels);
  for (T& v : res) v = FromFloat<T>(random.Normal());
  for (T& v : weight) v = FromFloat<T>(1.0f + 0.1f * random.Normal());
  for (T& v : b) v = FromFloat<T>(random.Normal());
  const auto order = reorder ? Permutation(random, channels) : std::vector<int32_t>{};
  const float epsilon = 1e-5f;

  std::vector<int8_t> q(rows * channels);
  std::vector<float> scale(rows * f.scales());
  std::vector<T> sum(rows * channels), y(rows * channels);
  for (int64_t m = 0; m < rows; ++m) {
    std::vector<float> v(channels);
    for (int k = 0; k < channels; ++k) {
      const int64_t i = m * channels + k;
      sum[i] = residual ? FromFloat<T>(ToFloat(x[i]) + ToFloat(res[i])) : x[i];
      v[k] = ToFloat(sum[i]);
    }
    const float mean = layer ? LaneSum(v) / static_cast<float>(channels) : 0.0f;
    std::vector<float> square(channels);
    for (int k = 0; k < channels; ++k) {
      if (layer) v[k] = v[k] - mean;
      square[k] = v[k] * v[k];
    }
    const float r = 1.0f / std::sqrt(LaneSum(square) / static_cast<float>(channels) + epsilon);
    for (int k = 0; k < channels; ++k) {
      v[k] = v[k] * r * ToFloat(weight[k]);
      if (bias) v[k] = v[k] + ToFloat(b[k]);
      y[m * channels + k] = FromFloat<T>(v[k]);
    }
    QuantizeRef(v, f, order, q.data() + m * channels, scale.data() + m * f.scales());
  }

  DeviceArray<T> dx(x), dres(res), dweight(weight), db(b), dsum(sum.size()), dy(y.size());
  DeviceArray<int32_t> dorder(order);
  DeviceArray<int8_t> dq(q.size());
  DeviceArray<float> dscale(scale.size());
  cuda::NormQuantizeArgs args;
  args.type = kType<T>;
  args.x = dx.get();
  args.weight = dweight.get();
  args.bias = bias ? db.get() : nullptr;
  args.residual = residual ? dres.get() : nullptr;
  args.reorder_index = reorder ? dorder.get() : nullptr;
  args.q = dq.get();
  args.scale = dscale.get();
  args.sum = outputs ? dsum.get() : nullptr;
  args.y = outputs ? dy.get() : nullptr;
  args.rows = rows;
  args.format = f;
  args.layer_norm = layer;
  args.epsilon = epsilon;
  CHECK_CUDA(cuda::LaunchNormQuantize(args, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  std::string where = "NormQuantize type " + std::to_string(static_cast<int>(kType<T>)) + " M " + std::to_string(rows) +
                      " K " + std::to_string(channels) + " O " + std::to_string(f.outliers) + " G " +
                      std::to_string(f.group_size) + (layer ? " layer" : " rms") + (reorder ? " reorder" : "") +
                      (outputs ? "" : " no sum, y");
  auto got_sum = dsum.host(), got_y = dy.host();
  CanonNaN(got_sum), CanonNaN(got_y), CanonNaN(sum), CanonNaN(y);
  const bool same = Same(dq.host(), q, "q", where) && Same(dscale.host(), scale, "scale", where) &&
                    (!outputs || (Same(got_sum, sum, "sum", where) && Same(got_y, y, "y", where)));
  tally.Add(same && dq.guard_intact() && dscale.guard_intact() && dsum.guard_intact() && dy.guard_intact(), where);
}

template <class T>
void TestQuantize(Tally& tally, int64_t rows, RowFormat f, Activation kind, bool gated, bool packed, bool reorder,
                  uint64_t seed) {
  if (tally.Skips()) return;
  Random random(seed);
  const int channels = f.channels;
  const int64_t stride = packed ? 2 * channels : channels;
  auto x = MakeRows<T>(random, rows, static_cast<int>(stride));
  for (T& v : x) {
    if (kind != Activation::kNone) v = FromFloat<T>(ToFloat(v) * 4.0f);
  }
  std::vector<T> up(rows * channels);
  for (T& v : up) v = FromFloat<T>(random.Normal());
  const auto order = reorder ? Permutation(random, channels) : std::vector<int32_t>{};
  std::vector<int8_t> q(rows * channels);
  std::vector<float> scale(rows * f.scales());
  for (int64_t m = 0; m < rows; ++m) {
    std::vector<float> v(channels);
    for (int k = 0; k < channels; ++k) {
      v[k] = ActivateRef(kind, ToFloat(x[m * stride + k]));
      if (gated) v[k] = v[k] * ToFloat(packed ? x[m * stride + channels + k] : up[m * channels + k]);
    }
    QuantizeRef(v, f, order, q.data() + m * channels, scale.data() + m * f.scales());
  }
  DeviceArray<T> dx(x), dup(up);
  DeviceArray<int32_t> dorder(order);
  DeviceArray<int8_t> dq(q.size());
  DeviceArray<float> dscale(scale.size());
  cuda::QuantizeArgs args;
  args.type = kType<T>;
  args.x = dx.get();
  args.up = !gated ? nullptr : packed ? dx.get() + channels : dup.get();
  args.x_stride = stride;
  args.up_stride = packed ? stride : channels;
  args.activation = kind;
  args.reorder_index = reorder ? dorder.get() : nullptr;
  args.q = dq.get();
  args.scale = dscale.get();
  args.rows = rows;
  args.format = f;
  CHECK_CUDA(cuda::LaunchQuantize(args, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  std::string where = "Quantize type " + std::to_string(static_cast<int>(kType<T>)) + " M " + std::to_string(rows) +
                      " K " + std::to_string(channels) + " O " + std::to_string(f.outliers) + " G " +
                      std::to_string(f.group_size) + " activation " + std::to_string(static_cast<int>(kind)) +
                      (gated ? packed ? " packed gate" : " gate" : "") + (reorder ? " reorder" : "");
  const bool same = Same(dq.host(), q, "q", where) && Same(dscale.host(), scale, "scale", where);
  tally.Add(same && dq.guard_intact() && dscale.guard_intact(), where);
}

// Every float16 value through an activation, one a row. With a factor of 1 the scale is the magnitude of what comes
// out, bit for bit, and the e4m3 code has its sign.
void TestAllHalves(Tally& tally, Activation kind, Format format) {
  constexpr int kRows = 65536, kChannels = 16;
  RowFormat f;
  f.channels = f.group_size = kChannels, f.format = format, f.clip_over_qmax = 1.0f;
  std::vector<__half> x(kRows * kChannels, FromFloat<__half>(0.0f));
  std::vector<int8_t> q(x.size());
  std::vector<float> scale(kRows), v(kChannels, 0.0f);
  for (int m = 0; m < kRows; ++m) {
    x[m * kChannels] = __ushort_as_half(static_cast<uint16_t>(m));
    v[0] = ActivateRef(kind, ToFloat(x[m * kChannels]));
    QuantizeRef(v, f, {}, q.data() + m * kChannels, scale.data() + m);
  }
  DeviceArray<__half> dx(x);
  DeviceArray<int8_t> dq(q.size());
  DeviceArray<float> dscale(scale.size());
  cuda::QuantizeArgs args;
  args.type = DType::kF16, args.x = dx.get(), args.x_stride = kChannels, args.activation = kind;
  args.q = dq.get(), args.scale = dscale.get(), args.rows = kRows, args.format = f;
  CHECK_CUDA(cuda::LaunchQuantize(args, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  std::string where = "all of float16, activation " + std::to_string(static_cast<int>(kind));
  tally.Add(Same(dq.host(), q, "q", where) && Same(dscale.host(), scale, "scale", where), where);
}

template <class T>
void TestType(Tally& tally, bool quick) {
  struct Case {
    int channels, group, outliers;
    Format format;
  };
  const Format s4 = Format::kS4, s8 = Format::kS8, x4 = Format::kS4E4M3, e4 = Format::kE4M3, e5 = Format::kE5M2;
  const Case cases[] = {{1, 0, 0, s8},        {7, 0, 3, s4},         {16, 16, 0, s4},       {100, 0, 4, s4},
                        {176, 16, 16, s4},    {256, 0, 80, s4},      {288, 96, 96, s4},     {1027, 0, 0, s8},
                        {1024, 128, 128, s4}, {2176, 64, 128, s8},   {4096, 128, 128, s4},  {4096, 0, 0, s8},
                        {5120, 32, 0, s4},    {11008, 128, 128, s4}, {16384, 512, 512, s4}, {16384, 0, 128, s4},
                        {100, 0, 4, x4},      {1024, 128, 128, x4},  {288, 96, 96, x4},     {7, 0, 3, e4},
                        {1024, 0, 0, e4},     {640, 128, 128, e4},   {1027, 0, 0, e5},      {512, 64, 0, e5}};
  uint64_t seed = 1;
  for (const Case& c : cases) {
    if (quick && c.channels > 4096) continue;
    RowFormat f;
    f.channels = c.channels;
    f.group_size = c.group;
    f.outliers = c.outliers;
    f.format = c.format;
    for (const int64_t rows : {1, 17}) {
      for (int variant = 0; variant < 4; ++variant) {
        f.clip_over_qmax = (variant % 2 ? 0.9f : 1.0f) / LargestOf(c.format);
        TestNorm<T>(tally, rows, f, variant & 1, variant & 2, variant != 0, variant == 3, true, ++seed);
        TestNorm<T>(tally, rows, f, false, variant & 2, false, false, false, ++seed);
        TestQuantize<T>(tally, rows, f, Activation::kNone, false, false, variant & 2, ++seed);
      }
      TestQuantize<T>(tally, rows, f, Activation::kSilu, true, false, false, ++seed);
      TestQuantize<T>(tally, rows, f, Activation::kGelu, true, true, false, ++seed);
      TestQuantize<T>(tally, rows, f, Activation::kGeluTanh, false, false, false, ++seed);
      TestQuantize<T>(tally, rows, f, Activation::kRelu, false, false, false, ++seed);
    }
  }
  // Many rows, which are taken several at a time: a number that leaves one over.
  RowFormat f;
  f.channels = 1024, f.group_size = 128, f.outliers = 128, f.format = s4, f.clip_over_qmax = 0.9f / 7.0f;
  for (const bool reorder : {true, false}) TestNorm<T>(tally, 1005, f, false, reorder, reorder, false, reorder, ++seed);
  f.channels = 4096;
  f.format = x4;
  for (const bool reorder : {true, false}) {
    TestQuantize<T>(tally, 301, f, Activation::kNone, false, false, reorder, ++seed);
  }
  f.format = s4;
  if (quick) return;
  for (const bool outputs : {true, false}) TestNorm<T>(tally, 1005, f, false, true, outputs, false, outputs, ++seed);
  f.group_size = 0, f.outliers = 0, f.format = s8, f.clip_over_qmax = 1.0f / 127.0f;
  TestNorm<T>(tally, 2115, f, false, false, false, false, false, ++seed);
  f.group_size = 128, f.outliers = 128, f.format = x4, f.clip_over_qmax = 1.0f / 7.0f;
  TestNorm<T>(tally, 2115, f, false, true, false, false, false, ++seed);
  for (const int channels : {5120, 8192}) {
    f.channels = channels;
    for (const bool residual : {true, false})
      TestNorm<T>(tally, 601, f, false, true, residual, false, residual, ++seed);
    TestQuantize<T>(tally, 601, f, Activation::kNone, false, false, true, ++seed);
  }
}

}  // namespace

void TestRows(Tally& tally, bool quick) {
  TestType<float>(tally, quick);
  TestType<__half>(tally, quick);
  TestType<__nv_bfloat16>(tally, quick);
  for (const Activation kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    TestAllHalves(tally, kind, Format::kS8);
  }
  TestAllHalves(tally, Activation::kSilu, Format::kE4M3);
  std::printf("row operators: %d passed, %d failed\n", tally.passed, tally.failed);
}

}  // namespace lowbit::test
