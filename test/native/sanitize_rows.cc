// Runs every row kernel of this CPU over buffers of exactly the size they may touch, for scripts/sanitize.mjs: the
// sanitizers see each access beyond an end, and the results of all instruction sets are compared.
#include <cstdio>
#include <cstring>
#include <vector>

#include "native/core/cpu_features.h"
#include "native/core/float16.h"
#include "ops/rows/rows.h"

namespace lowbit {
namespace {

constexpr int64_t kRows = 3;

struct Case {
  RowSource source;
  int64_t channels, group, outliers;
  bool half, reorder, extras;  // extras: bias, the second input, sum and y
};

struct Result {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<uint8_t> sum, y;
  bool operator==(const Result&) const = default;
};

// `count` floats or halves that repeat with a long period.
std::vector<uint8_t> Floats(bool half, int64_t count, int seed) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count) * (half ? 2 : 4));
  for (int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>((i * 7919 + seed * 104729) % 20011 - 10000) / 4096.f;
    const uint16_t rounded = FloatToHalf(value);
    std::memcpy(bytes.data() + i * (half ? 2 : 4), half ? static_cast<const void*>(&rounded) : &value, half ? 2 : 4);
  }
  return bytes;
}

Result Run(const Case& c, const RowFunctions& functions) {
  const int64_t body = c.channels - c.outliers, group = c.group == 0 ? body : c.group;
  const int64_t segments = body / group + (c.outliers > 0 ? 1 : 0), elements = kRows * c.channels;
  const auto x = Floats(c.half, elements, 1), other = Floats(c.half, elements, 2);
  const auto weight = Floats(c.half, c.channels, 3), bias = Floats(c.half, c.channels, 4);
  std::vector<int32_t> index(static_cast<size_t>(c.channels));
  for (int64_t k = 0; k < c.channels; ++k) index[static_cast<size_t>(k)] = static_cast<int32_t>(c.channels - 1 - k);

  Result result{std::vector<int8_t>(elements), std::vector<float>(kRows * segments), {}, {}};
  const bool norm = c.source == RowSource::kRms || c.source == RowSource::kLayer;
  if (norm && c.extras) {
    result.sum.resize(x.size());
    result.y.resize(x.size());
  }
  RowArgs args{};
  args.source = c.source;
  args.activation = Activation::kGelu;
  args.x = x.data();
  args.x_stride = args.other_stride = c.channels;
  args.other = c.source == RowSource::kGated || (norm && c.extras) ? other.data() : nullptr;
  args.weight = weight.data();
  args.bias = c.extras ? bias.data() : nullptr;
  args.epsilon = 1e-5f;
  args.reorder_index = c.reorder ? index.data() : nullptr;
  args.channels = c.channels;
  args.body = body;
  args.group = group;
  args.segments = segments;
  args.body_codes = {-8.f, 7.f, 0.9f / 7.f};
  args.q = result.q.data();
  args.scale = result.scale.data();
  args.sum = result.sum.empty() ? nullptr : result.sum.data();
  args.y = result.y.empty() ? nullptr : result.y.data();
  std::vector<float> scratch(RowScratchFloats(c.channels));  // kernels take it unaligned too
  (c.half ? functions.f16 : functions.f32)(args, 0, kRows, scratch.data());
  return result;
}

int Main() {
  int cases = 0;
  for (const int64_t channels : {1, 7, 8, 9, 15, 16, 17, 33, 112, 255, 1008, 1023, 1024, 1025, 2064}) {
    for (int bits = 0; bits < 5 * 8; ++bits) {
      Case c{static_cast<RowSource>(bits / 8), channels, 0, 0, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0};
      if (channels % 16 == 0 && channels > 32 && c.extras) c.group = 16, c.outliers = 16;
      const Result expected = Run(c, RowFunctionsScalar());
      bool same = true;
#if defined(__x86_64__)
      if (CpuFeatures() & kCpuAvx2) same &= Run(c, RowFunctionsAvx2()) == expected;
      if (CpuFeatures() & kCpuAvx512) same &= Run(c, RowFunctionsAvx512()) == expected;
#endif
      if (!same) {
        std::printf("row kernels differ: source %d, K %d, half %d\n", bits / 8, static_cast<int>(channels), c.half);
        return 1;
      }
      ++cases;
    }
  }
  std::printf("row kernels: %d cases, no access out of bounds, all instruction sets equal\n", cases);
  return 0;
}

}  // namespace
}  // namespace lowbit

int main() { return lowbit::Main(); }
