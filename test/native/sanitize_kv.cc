// Runs every QuantKvAttention kernel of this CPU over buffers of exactly the size it may touch, for
// scripts/sanitize.mjs: the sanitizers see each access beyond an end, and the cache must be the same on all instruction
// sets.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "native/core/cpu_features.h"
#include "native/core/float16.h"
#include "ops/quant-kv-attention/cpu/attention.h"

namespace lowbit::kv {
namespace {

struct Shape {
  int64_t dim, pairs, tokens, past, heads;
  Rotary rotary;
  bool rotate_on_read, causal, masked;
  int64_t window;
};

constexpr int64_t kKvHeads = 2;

struct Bytes {
  std::vector<uint8_t> k_codes, v_codes;
  std::vector<uint16_t> k_params, v_params;
  bool operator==(const Bytes&) const = default;
};

/// `count` floats or halves that repeat with a long period.
std::vector<uint8_t> Floats(bool half, int64_t count, int64_t seed) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count) * (half ? 2 : 4));
  for (int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>((i * 7919 + seed * 104729) % 20011 - 10000) / 8192.f;
    if (half) {
      reinterpret_cast<uint16_t*>(bytes.data())[i] = FloatToHalf(value);
    } else {
      reinterpret_cast<float*>(bytes.data())[i] = value;
    }
  }
  return bytes;
}

Bytes Run(const Kernel& kernel, const Shape& shape) {
  const int64_t rows = shape.past + shape.tokens, row_bytes = shape.dim * kernel.bits / 8;
  const auto q = Floats(kernel.half, shape.tokens * shape.heads * shape.dim, 1);
  const auto k = Floats(kernel.half, shape.tokens * kKvHeads * shape.dim, 2);
  const auto v = Floats(kernel.half, shape.tokens * kKvHeads * shape.dim, 3);
  const auto cos = Floats(kernel.half, rows * shape.pairs, 4), sin = Floats(kernel.half, rows * shape.pairs, 5);
  const auto mask = Floats(kernel.half, shape.tokens * rows, 6);
  std::vector<uint8_t> y(static_cast<size_t>(shape.tokens * shape.heads * shape.dim) * (kernel.half ? 2 : 4));
  Bytes cache{std::vector<uint8_t>(kKvHeads * rows * row_bytes, 0x5a), {}, {}, {}};
  cache.v_codes = cache.k_codes;
  cache.k_params.assign(static_cast<size_t>(kKvHeads * rows * 2), 0x2c00);
  cache.v_params = cache.k_params;

  Args args{};
  args.tokens = shape.tokens;
  args.heads = shape.heads;
  args.kv_heads = kKvHeads;
  args.head_dim = shape.dim;
  args.bits = kernel.bits;
  args.row_bytes = row_bytes;
  args.clip = 1;
  args.scale = 0.1f;
  args.softcap = shape.masked ? 4.f : 0.f;
  args.causal = shape.causal;
  args.half = kernel.half;
  args.window = shape.window;
  args.rotary = shape.rotary;
  args.rotate_on_read = shape.rotate_on_read;
  args.q = q.data();
  args.q_stride = shape.heads * shape.dim;
  args.k = k.data();
  args.v = v.data();
  args.kv_stride = kKvHeads * shape.dim;
  args.present_k = {cache.k_codes.data(), cache.k_params.data(), rows};
  args.present_v = {cache.v_codes.data(), cache.v_params.data(), rows};
  args.lengths = &rows;
  args.cos = cos.data();
  args.sin = sin.data();
  args.pairs = shape.pairs;
  args.mask = shape.masked ? mask.data() : nullptr;
  args.mask_row_stride = rows;
  args.y = y.data();
  std::vector<float> scratch(static_cast<size_t>(ScratchFloats(args, shape.tokens)));
  for (int64_t head = 0; head < kKvHeads; ++head) {
    kernel.store(args, 0, head, 0, shape.tokens, scratch.data());
  }
  for (int64_t head = 0; head < kKvHeads; ++head) {
    kernel.attend(args, 0, head, 0, shape.tokens, scratch.data());
  }
  const auto whole = y;
  const int64_t count = (rows + kPartKeys - 1) / kPartKeys, part = PartFloats(args, shape.tokens);
  std::vector<float> parts(static_cast<size_t>(count * part));
  for (int64_t head = 0; head < kKvHeads; ++head) {
    for (int64_t i = 0; i < count; ++i) {
      kernel.attend_parts(args, 0, head, 0, shape.tokens, i, i + 1, parts.data() + i * part, scratch.data());
    }
    kernel.join_parts(args, 0, head, 0, shape.tokens, count, parts.data(), scratch.data());
  }
  if (y != whole) {
    std::printf("kv kernel %s: parts give another result than the whole\n", kernel.name);
    std::exit(1);
  }
  return cache;
}

int Main() {
  std::vector<const Kernel*> tables;
#if defined(__x86_64__)
  if (CpuFeatures() & kCpuAvx512) tables.push_back(Avx512Kernels());
  if (CpuFeatures() & kCpuAvx2) tables.push_back(Avx2Kernels());
#endif
  const Shape shapes[] = {
      {16, 8, 1, 0, 2, Rotary::kHalf, true, true, false, 0},
      {32, 16, 5, 40, 4, Rotary::kHalf, false, true, false, 7},
      {48, 10, 33, 0, 2, Rotary::kHalf, true, true, true, 0},
      {64, 32, 1, 31, 6, Rotary::kInterleaved, true, true, false, 0},
      {80, 40, 3, 64, 2, Rotary::kHalf, false, false, true, 0},
      {128, 64, 40, 3, 8, Rotary::kNone, false, true, false, 0},
      {32, 16, 2, 600, 4, Rotary::kHalf, true, true, false, 300},
      {512, 20, 2, 1, 2, Rotary::kInterleaved, false, true, false, 0},
  };
  int cases = 0;
  for (const Shape& shape : shapes) {
    for (int i = 0; i < kKernelsPerArch; ++i) {
      const Bytes expected = Run(ScalarKernels()[i], shape);
      for (const Kernel* table : tables) {
        if (Run(table[i], shape) == expected) continue;
        std::printf("kv kernels differ: %s, head size %d\n", table[i].name, static_cast<int>(shape.dim));
        return 1;
      }
      ++cases;
    }
  }
  std::printf("kv kernels: %d cases, no access out of bounds, the same cache on all instruction sets\n", cases);
  return 0;
}

}  // namespace
}  // namespace lowbit::kv

int main() { return lowbit::kv::Main(); }
