// QuantKvAttention against the host: cache codes and parameters bit for bit, attention in double over the dequantized
// cache, every kernel that accepts a case.
#include <algorithm>
#include <cmath>

#include "test/gpu/formats.h"
#include "test/gpu/kv_reference.h"

namespace lowbit::test {
namespace {

using kv::Case;
using kv::Data;

using cuda::DType;
using cuda::KvArgs;
using cuda::KvRotary;

template <class T>
KvArgs ArgsOf(const Case& c) {
  KvArgs args;
  args.type = kType<T>;
  args.batch = c.batch, args.tokens = c.tokens, args.heads = c.heads, args.kv_heads = c.kv_heads, args.head_dim = c.dim;
  args.bits = c.bits;
  args.clip_over_last = c.clip / static_cast<float>((1 << c.bits) - 1);
  args.half_unclipped = (1.0f - c.clip) / 2.0f;
  args.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.dim)));
  args.softcap = c.softcap, args.causal = c.causal, args.window = c.window, args.rotary = c.rotary;
  args.rotate_on_read = c.rotary != KvRotary::kNone && !c.post;
  return args;
}

// Scratch memory of a run, full of garbage.
class Scratch {
 public:
  Scratch(KvArgs& args, const cuda::KvKernel& kernel) : needs_(cuda::KvScratchOf(args, kernel)), bytes_(needs_.bytes) {
    args.scratch = needs_.bytes > 0 ? bytes_.get() : nullptr;
    args.zeros = needs_.zeros;
  }
  bool guard_intact() const { return bytes_.guard_intact(); }

 private:
  cuda::KvScratch needs_;
  DeviceArray<uint8_t> bytes_;
};

template <class T>
void Run(Tally& tally, const Case& c, uint64_t seed) {
  const bool half = sizeof(T) == 2, brain = kType<T> == DType::kBF16;
  const std::string text = c.Text(brain ? "bf16" : half ? "f16" : "f32");
  if (text.find(tally.kernel) == std::string::npos || tally.Skips()) return;
  const Data<T> data(c, seed);
  KvArgs args = ArgsOf<T>(c);

  const size_t q_width = static_cast<size_t>(c.heads) * c.dim, kv_width = static_cast<size_t>(c.kv_heads) * c.dim;
  std::vector<T> packed;
  if (c.packed) {
    for (int token = 0; token < c.batch * c.tokens; ++token) {
      packed.insert(packed.end(), &data.q[token * q_width], &data.q[token * q_width] + q_width);
      packed.insert(packed.end(), &data.k[token * kv_width], &data.k[token * kv_width] + kv_width);
      packed.insert(packed.end(), &data.v[token * kv_width], &data.v[token * kv_width] + kv_width);
    }
  }
  const DeviceArray<T> q(c.packed ? packed : data.q), k(data.k), v(data.v), cos(data.cos), sin(data.sin),
      mask(data.mask);
  args.q = q.get();
  args.k = c.packed ? q.get() + q_width : k.get();
  args.v = c.packed ? q.get() + q_width + kv_width : v.get();
  args.q_stride = static_cast<int64_t>(c.packed ? q_width + 2 * kv_width : q_width);
  args.kv_stride = static_cast<int64_t>(c.packed ? q_width + 2 * kv_width : kv_width);
  DeviceArray<uint8_t> past_k(data.past_k.codes), past_v(data.past_v.codes);
  DeviceArray<uint16_t> past_k_param(data.past_k.params), past_v_param(data.past_v.params);
  const size_t rows = static_cast<size_t>(c.batch) * c.kv_heads * data.room;
  DeviceArray<uint8_t> other_k(rows * data.row_bytes), other_v(rows * data.row_bytes);
  DeviceArray<uint16_t> other_k_param(2 * rows), other_v_param(2 * rows);
  DeviceArray<uint8_t>&present_k = c.same_buffer ? past_k : other_k, &present_v = c.same_buffer ? past_v : other_v;
  DeviceArray<uint16_t>& present_k_param = c.same_buffer ? past_k_param : other_k_param;
  DeviceArray<uint16_t>& present_v_param = c.same_buffer ? past_v_param : other_v_param;
  args.past_k = {past_k.get(), past_k_param.get(), c.past};
  args.past_v = {past_v.get(), past_v_param.get(), c.past};
  args.present_k = {present_k.get(), present_k_param.get(), data.room};
  args.present_v = {present_v.get(), present_v_param.get(), data.room};
  const DeviceArray<int32_t> lengths(c.lengths);
  args.lengths = c.lengths.empty() ? nullptr : lengths.get();
  args.limit = data.room;
  args.cos = cos.get(), args.sin = sin.get(), args.pairs = data.pairs;
  if (c.mask) {
    args.mask = mask.get();
    args.mask_row_stride = data.columns;
    args.mask_head_stride = c.mask_heads ? static_cast<int64_t>(data.columns) * c.tokens : 0;
  }
  CHECK_CUDA(cuda::LaunchKvAppend(args, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  tally.Add(present_k.host() == data.present_k.codes && present_k_param.host() == data.present_k.params,
            text + ": keys");
  tally.Add(present_v.host() == data.present_v.codes && present_v_param.host() == data.present_v.params,
            text + ": values");
  const bool guards = present_k.guard_intact() && present_v.guard_intact() && present_k_param.guard_intact() &&
                      present_v_param.guard_intact();
  tally.Add(guards, text + ": written behind the cache");

  for (int i = 0; i < cuda::kKvKernelCount; ++i) {
    const cuda::KvKernel& kernel = cuda::kKvKernels[i];
    if (cuda::ChooseKvKernel(args, 90, kernel.name) != &kernel) continue;
    DeviceArray<T> y(data.q.size());
    args.y = y.get();
    const Scratch scratch(args, kernel);
    CHECK_CUDA(cuda::LaunchKvAppend(args, nullptr));  // with counters of this kernel
    CHECK_CUDA(kernel.run(args, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    const std::vector<T> got = y.host();
    double worst = 0;
    bool nans = true;
    for (size_t j = 0; j < got.size(); ++j) {
      const double value = ToFloat(got[j]);
      if (std::isnan(data.y[j]) || std::isnan(value)) {
        nans &= std::isnan(data.y[j]) && std::isnan(value);
      } else {
        worst = std::max(worst, std::fabs(value - data.y[j]));
      }
    }
    const double error = worst / std::max(data.largest_value, 1e-30), allowed = brain ? 4e-3 : half ? 2e-3 : 1e-5;
    char what[96];
    std::snprintf(what, sizeof what, ": %s error %.2e of the largest value, expected %.0e%s", kernel.name, error,
                  allowed, nans ? "" : ", NaNs differ");
    tally.Add(error <= allowed && nans && y.guard_intact(), text + what);
    CHECK_CUDA(kernel.run(args, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    const std::vector<T> again = y.host();
    tally.Add(std::memcmp(again.data(), got.data(), got.size() * sizeof(T)) == 0 && scratch.guard_intact(),
              text + ": a second run of " + kernel.name + " differs");
  }
}

// A length that does not fit gives NaN for its sequence and writes nothing; others are served.
void RunBadLength(Tally& tally) {
  Case c;
  c.batch = 2, c.tokens = 1, c.past = 20, c.in_place = true, c.lengths = {7, 20};
  Data<__half> data(c, 99);
  KvArgs args;
  args.type = DType::kF16, args.batch = 2, args.tokens = 1, args.heads = args.kv_heads = 2, args.head_dim = 64;
  args.clip_over_last = 1.0f / 15;
  const DeviceArray<__half> q(data.q), k(data.k), v(data.v);
  const DeviceArray<uint8_t> codes_k(data.past_k.codes), codes_v(data.past_v.codes);
  const DeviceArray<uint16_t> params_k(data.past_k.params), params_v(data.past_v.params);
  args.q = q.get(), args.k = k.get(), args.v = v.get(), args.q_stride = args.kv_stride = 128;
  args.past_k = args.present_k = {codes_k.get(), params_k.get(), 20};
  args.past_v = args.present_v = {codes_v.get(), params_v.get(), 20};
  const DeviceArray<int32_t> lengths(std::vector<int32_t>{21, 20});
  args.lengths = lengths.get(), args.limit = 20;
  CHECK_CUDA(cuda::LaunchKvAppend(args, nullptr));
  for (int i = 0; i < cuda::kKvKernelCount; ++i) {
    if (!cuda::kKvKernels[i].accepts(args)) continue;
    const DeviceArray<__half> y(256);
    args.y = y.get();
    const Scratch scratch(args, cuda::kKvKernels[i]);
    CHECK_CUDA(cuda::LaunchKvAppend(args, nullptr));
    CHECK_CUDA(cuda::kKvKernels[i].run(args, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    const auto got = y.host();
    bool ok = true;
    for (int j = 0; j < 256; ++j) ok &= std::isnan(ToFloat(got[j])) == (j < 128);
    tally.Add(ok, std::string("a length over the capacity: ") + cuda::kKvKernels[i].name);
  }
}

// The same tokens in a growing and in an in-place cache: equal rows, and equal bits of y from every kernel.
void RunForms(Tally& tally, int tokens, uint64_t seed) {
  Case grown;
  grown.batch = 2, grown.tokens = tokens, grown.past = 300, grown.heads = 8, grown.kv_heads = 4, grown.dim = 128;
  grown.rotary = KvRotary::kHalf, grown.lengths = {300 + tokens, 170};
  const Data<__half> data(grown, seed);
  KvArgs args = ArgsOf<__half>(grown);
  const DeviceArray<__half> q(data.q), k(data.k), v(data.v), cos(data.cos), sin(data.sin);
  args.q = q.get(), args.k = k.get(), args.v = v.get(), args.cos = cos.get(), args.sin = sin.get();
  args.q_stride = 8 * 128, args.kv_stride = 4 * 128, args.pairs = 64;
  const DeviceArray<int32_t> lengths(grown.lengths);
  args.lengths = lengths.get(), args.limit = data.room;

  constexpr int kCapacity = 512;
  const int row_bytes = args.row_bytes(), heads = grown.batch * grown.kv_heads;
  DeviceArray<uint8_t> present(static_cast<size_t>(2) * heads * data.room * row_bytes);
  DeviceArray<uint16_t> params(static_cast<size_t>(4) * heads * data.room);
  const DeviceArray<uint8_t> past_k(data.past_k.codes), past_v(data.past_v.codes);
  const DeviceArray<uint16_t> past_k_param(data.past_k.params), past_v_param(data.past_v.params);
  args.past_k = {past_k.get(), past_k_param.get(), grown.past};
  args.past_v = {past_v.get(), past_v_param.get(), grown.past};
  args.present_k = {present.get(), params.get(), data.room};
  args.present_v = {present.get() + present.size() / 2, params.get() + params.size() / 2, data.room};

  // The past at the front of larger buffers, other bytes behind it.
  const auto spread = [&](const auto& rows, int width) {
    auto wide = rows;
    wide.assign(static_cast<size_t>(heads) * kCapacity * width, 0x7e);
    for (int head = 0; head < heads; ++head) {
      std::copy_n(&rows[static_cast<size_t>(head) * grown.past * width], static_cast<size_t>(grown.past) * width,
                  &wide[static_cast<size_t>(head) * kCapacity * width]);
    }
    return wide;
  };
  const DeviceArray<uint8_t> buffer_k(spread(data.past_k.codes, row_bytes)),
      buffer_v(spread(data.past_v.codes, row_bytes));
  const DeviceArray<uint16_t> buffer_k_param(spread(data.past_k.params, 2)),
      buffer_v_param(spread(data.past_v.params, 2));
  KvArgs placed = args;
  placed.past_k = placed.present_k = {buffer_k.get(), buffer_k_param.get(), kCapacity};
  placed.past_v = placed.present_v = {buffer_v.get(), buffer_v_param.get(), kCapacity};
  CHECK_CUDA(cuda::LaunchKvAppend(args, nullptr));
  CHECK_CUDA(cuda::LaunchKvAppend(placed, nullptr));
  for (int i = 0; i < cuda::kKvKernelCount; ++i) {
    if (!cuda::kKvKernels[i].accepts(args)) continue;
    const DeviceArray<__half> y(data.q.size()), other(data.q.size());
    args.y = y.get(), placed.y = other.get();
    const Scratch scratch(args, cuda::kKvKernels[i]), placed_scratch(placed, cuda::kKvKernels[i]);
    CHECK_CUDA(cuda::LaunchKvAppend(args, nullptr));
    CHECK_CUDA(cuda::LaunchKvAppend(placed, nullptr));
    CHECK_CUDA(cuda::kKvKernels[i].run(args, nullptr));
    CHECK_CUDA(cuda::kKvKernels[i].run(placed, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    const auto a = y.host(), b = other.host();
    tally.Add(std::memcmp(a.data(), b.data(), a.size() * sizeof(__half)) == 0,
              std::string("growing and in place differ: ") + cuda::kKvKernels[i].name);
  }
}

std::vector<Case> Cases(bool quick) {
  std::vector<Case> cases;
  const auto add = [&](auto edit) {
    Case c;
    edit(c);
    cases.push_back(c);
  };
  for (const int dim : {32, 64, 80, 96, 128, 256, 512}) {
    for (const int bits : {4, 8}) {
      for (const bool post : {false, true}) {
        add([&](Case& c) { c.dim = dim, c.bits = bits, c.post = post, c.rotary = KvRotary::kHalf, c.past = 37; });
        add([&](Case& c) {
          c.dim = dim, c.bits = bits, c.post = post, c.rotary = KvRotary::kInterleaved, c.tokens = 21, c.past = 14;
          c.heads = 4, c.kv_heads = 1, c.packed = true;
        });
      }
    }
  }
  for (const int tokens : {1, 3, 19, 70}) {
    for (const bool in_place : {false, true}) {
      add([&](Case& c) {
        c.batch = 3, c.tokens = tokens, c.past = in_place ? 133 : 60, c.in_place = in_place, c.heads = 4, c.dim = 128;
        c.rotary = KvRotary::kHalf, c.lengths = {60 + tokens, tokens / 2, 41};
      });
      add([&](Case& c) {
        c.batch = 2, c.tokens = tokens, c.past = 140, c.in_place = in_place, c.window = 33, c.softcap = 5, c.dim = 64;
        c.rotary = KvRotary::kHalf, c.pairs = 16, c.post = true, c.clip = 0.9f, c.lengths = {140, 77};
      });
    }
    add([&](Case& c) {
      c.batch = 2, c.tokens = tokens, c.past = 150, c.in_place = c.same_buffer = true, c.lengths = {150, tokens};
      c.heads = 8, c.dim = 128, c.rotary = KvRotary::kHalf, c.mask = true, c.mask_heads = tokens != 3;
    });
    add([&](Case& c) { c.tokens = tokens, c.past = 45, c.causal = false, c.mask = true, c.heads = 6, c.dim = 80; });
    // Enough heads that warps share the RoPE tables of their keys.
    for (const int kv_heads : {32, 8, 6}) {
      if (tokens > 19) break;
      add([&](Case& c) {
        c.batch = 96 / kv_heads, c.tokens = tokens, c.past = 90, c.heads = kv_heads == 8 ? 32 : kv_heads;
        c.kv_heads = kv_heads, c.dim = tokens == 3 ? 64 : 128, c.bits = tokens == 19 ? 8 : 4;
        c.rotary = kv_heads == 6 ? KvRotary::kInterleaved : KvRotary::kHalf;
      });
    }
    // The same with so few query rows that a warp has two heads: their masks, windows and lengths.
    for (const auto& [bits, dim] : {std::pair{4, 128}, {4, 64}, {8, 64}}) {
      if (tokens > 3) break;
      for (const KvRotary rotary : {KvRotary::kHalf, KvRotary::kInterleaved}) {
        add([&](Case& c) {
          c.batch = 12, c.tokens = tokens, c.past = 300, c.heads = tokens == 1 ? 32 : 8, c.kv_heads = 8, c.dim = dim;
          c.bits = bits, c.rotary = rotary, c.in_place = true, c.mask = c.mask_heads = bits == 8;
          c.window = dim == 128 ? 0 : 70, c.softcap = dim == 128 ? 5.0f : 0.0f;
          c.lengths = {300, 299, 3, 17, 16, 100, 33, 32, 31, 250, 48, 65};
        });
      }
    }
    add([&](Case& c) { c.tokens = tokens, c.past = 5, c.odd_value = NAN; });
    add([&](Case& c) { c.tokens = tokens, c.past = 5, c.odd_value = 60000; });
    add([&](Case& c) { c.tokens = tokens, c.past = 5, c.odd_value = 1e-7f, c.bits = 8; });
  }
  // Many sequences, short and of different lengths, some with nothing new: blocks go from one to the next. With 70
  // tokens keys are turned ahead.
  for (const int dim : {32, 64, 80, 96, 128, 256}) {
    for (const int tokens : {40, 70}) {
      add([&](Case& c) {
        c.batch = 48, c.tokens = tokens, c.past = 150, c.heads = 8, c.kv_heads = 2, c.dim = dim;
        c.rotary = KvRotary::kHalf, c.post = dim == 64, c.bits = dim == 96 ? 8 : 4, c.window = dim == 80 ? 50 : 0;
        c.packed = dim == 128;
        for (int i = 0; i < c.batch; ++i) c.lengths.push_back(i % 5 == 4 ? i % 2 : 1 + i * 67 % (tokens + c.past));
      });
    }
  }
  if (quick) return cases;
  for (const bool post : {false, true}) {
    for (const int bits : {4, 8}) {
      add([&](Case& c) {
        c.past = 4095, c.heads = c.kv_heads = 4, c.dim = 128, c.rotary = KvRotary::kHalf, c.post = post, c.bits = bits;
      });
      add([&](Case& c) {
        c.batch = 4, c.past = 1500, c.heads = 16, c.kv_heads = 4, c.dim = 128, c.rotary = KvRotary::kHalf,
        c.post = post;
        c.bits = bits, c.tokens = 2, c.in_place = c.same_buffer = true, c.lengths = {1500, 700, 33, 1100};
      });
      add([&](Case& c) {
        c.batch = 2, c.past = 100, c.tokens = 300, c.heads = 8, c.kv_heads = 2, c.dim = 128, c.rotary = KvRotary::kHalf;
        c.post = post, c.bits = bits, c.lengths = {400, 211};
      });
    }
  }
  return cases;
}

}  // namespace

void TestKv(Tally& tally, bool quick) {
  uint64_t seed = 0;
  for (const Case& c : Cases(quick)) {
    Run<float>(tally, c, ++seed);
    Run<__half>(tally, c, ++seed);
    Run<__nv_bfloat16>(tally, c, ++seed);
  }
  if (tally.kernel.empty()) {
    RunBadLength(tally);
    for (const int tokens : {1, 3, 40, 200}) RunForms(tally, tokens, ++seed);
  }
  std::printf("attention: %d passed, %d failed\n", tally.passed, tally.failed);
}

}  // namespace lowbit::test
