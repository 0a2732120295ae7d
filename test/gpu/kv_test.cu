// QuantKvAttention against the host: cache codes and parameters bit for bit, attention in double over the dequantized
// cache, every kernel that accepts a case. The host side is compiled with -ffp-contract=off.
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>

#include "ops/quant-kv-attention/cuda/launch.h"
#include "test/gpu/check.h"

namespace lowbit::test {
namespace {

using cuda::DType;
using cuda::KvArgs;
using cuda::KvRotary;

struct Case {
  int batch = 1, tokens = 1, past = 0, heads = 2, kv_heads = 2, dim = 64, bits = 4;
  KvRotary rotary = KvRotary::kNone;
  bool post = false, in_place = false, same_buffer = false, causal = true, packed = false;
  int pairs = 0, window = 0;  // pairs 0: all channels turn
  float clip = 1, softcap = 0, odd_value = 0;
  std::vector<int32_t> lengths;
  bool mask = false, mask_heads = false;

  std::string Text(const char* type) const {
    char text[300];
    std::snprintf(text, sizeof text,
                  "%s b%d s%d t%d heads %d/%d d%d u%d rope %d%s pairs %d%s%s%s window %d cap %g clip %g odd %g%s%s",
                  type, batch, tokens, past, heads, kv_heads, dim, bits, static_cast<int>(rotary), post ? " post" : "",
                  pairs, in_place ? " in place" : "", same_buffer ? " same" : "", causal ? "" : " all", window, softcap,
                  clip, odd_value, mask ? " mask" : "", lengths.empty() ? "" : " ragged");
    return text;
  }
};

float Half(uint16_t bits) {
  __half h;
  std::memcpy(&h, &bits, 2);
  return __half2float(h);
}
uint16_t HalfBits(float x) {
  const __half h = __float2half_rn(x);
  uint16_t bits;
  std::memcpy(&bits, &h, 2);
  return bits;
}

struct Cache {
  int rows = 0;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> params;
};

// ops/formats/README.md, asymmetric quantization.
void QuantizeRow(const std::vector<float>& x, int bits, float clip, uint8_t* codes, uint16_t* params) {
  const float last = static_cast<float>((1 << bits) - 1);
  std::fill(codes, codes + x.size() * bits / 8, uint8_t{0});
  bool finite = true;
  float lo = x[0], hi = x[0];
  for (float v : x) {
    finite &= std::isfinite(v);
    lo = std::min(lo, v), hi = std::max(hi, v);
  }
  lo += 0.0f, hi += 0.0f;
  const float d = hi - lo, c = clip / last, e = (1.0f - clip) / 2.0f;
  const float step = d * c, low = lo + d * e;
  params[0] = HalfBits(step), params[1] = HalfBits(low);
  if (params[1] == 0x8000) params[1] = 0;
  if (!finite || !std::isfinite(Half(params[0])) || !std::isfinite(Half(params[1]))) {
    params[0] = params[1] = 0x7e00;
    return;
  }
  if (params[0] == 0) return;
  const float inv = 1.0f / Half(params[0]), min = Half(params[1]);
  for (size_t i = 0; i < x.size(); ++i) {
    const float t = (x[i] - min) * inv;
    const int code = static_cast<int>(std::nearbyintf(std::min(std::max(t, 0.0f), last)));
    if (bits == 8) {
      codes[i] = static_cast<uint8_t>(code);
    } else {
      codes[i / 2] = static_cast<uint8_t>(codes[i / 2] | code << (4 * (i & 1)));
    }
  }
}

std::vector<float> Dequantize(const uint8_t* codes, const uint16_t* params, int dim, int bits) {
  std::vector<float> x(dim);
  for (int i = 0; i < dim; ++i) {
    const int code = bits == 8 ? codes[i] : codes[i / 2] >> (4 * (i & 1)) & 15;
    x[i] = static_cast<float>(code) * Half(params[0]) + Half(params[1]);
  }
  return x;
}

template <class T>
float ToFloat(T v);
template <>
float ToFloat(float v) {
  return v;
}
template <>
float ToFloat(__half v) {
  return __half2float(v);
}
template <class T>
T FromFloat(float v);
template <>
float FromFloat(float v) {
  return v;
}
template <>
__half FromFloat(float v) {
  return __float2half(v);
}

template <class T>
struct Data {
  Case c;
  int room, row_bytes, pairs, columns;
  std::vector<T> q, k, v, cos, sin, mask;  // k and v hold rows of kv heads; packed when they go to the device
  Cache past_k, past_v, present_k, present_v;
  std::vector<double> y;
  double largest_value = 0;

  Data(const Case& given, uint64_t seed) : c(given) {
    Random random(seed);
    room = c.in_place ? c.past : c.past + c.tokens;
    row_bytes = c.dim * c.bits / 8;
    pairs = c.rotary == KvRotary::kNone ? 0 : c.pairs ? c.pairs : c.dim / 2;
    const auto normals = [&](std::vector<T>& to, size_t count) {
      to.resize(count);
      for (T& x : to) x = FromFloat<T>(random.Normal());
    };
    const size_t tokens = static_cast<size_t>(c.batch) * c.tokens;
    normals(q, tokens * c.heads * c.dim);
    normals(k, tokens * c.kv_heads * c.dim);
    normals(v, tokens * c.kv_heads * c.dim);
    if (c.odd_value != 0) k[3] = v[c.dim + 1] = FromFloat<T>(c.odd_value);
    for (int p = 0; p < room; ++p) {
      for (int i = 0; i < pairs; ++i) {
        const double angle = p * std::pow(10000.0, -static_cast<double>(i) / pairs);
        cos.push_back(FromFloat<T>(static_cast<float>(std::cos(angle))));
        sin.push_back(FromFloat<T>(static_cast<float>(std::sin(angle))));
      }
    }
    columns = room + 3;
    if (c.mask) {
      normals(mask, static_cast<size_t>(c.mask_heads ? c.heads : 1) * c.tokens * columns);
      for (size_t i = 5; i < mask.size(); i += 7) mask[i] = FromFloat<T>(-INFINITY);
    }
    for (Cache* cache : {&past_k, &past_v}) {
      cache->rows = c.past;
      const size_t rows = static_cast<size_t>(c.batch) * c.kv_heads * c.past;
      cache->codes.resize(rows * row_bytes);
      cache->params.resize(rows * 2);
      for (size_t row = 0; row < rows; ++row) {
        std::vector<float> x(c.dim);
        for (float& each : x) each = random.Normal();
        QuantizeRow(x, c.bits, 1, &cache->codes[row * row_bytes], &cache->params[2 * row]);
      }
    }
    Reference();
  }

  int Length(int b) const { return c.lengths.empty() ? room : c.lengths[b]; }

  std::vector<float> Turn(std::vector<float> x, int position) const {
    for (int i = 0; i < pairs; ++i) {
      const int at = c.rotary == KvRotary::kHalf ? i : 2 * i, other = c.rotary == KvRotary::kHalf ? i + pairs : at + 1;
      const float cs = ToFloat(cos[position * pairs + i]), sn = ToFloat(sin[position * pairs + i]);
      const float a = x[at], b = x[other];
      const float ac = a * cs, bs = b * sn, bc = b * cs, as = a * sn;
      x[at] = ac - bs;
      x[other] = bc + as;
    }
    return x;
  }

  // Fills a present cache and returns its rows of one head, dequantized.
  std::vector<std::vector<float>> Fill(Cache& present, const Cache& past, const std::vector<T>& fresh, int b, int head,
                                       bool turn) {
    const int length = Length(b), start = std::max(0, length - c.tokens);
    std::vector<std::vector<float>> rows;
    for (int j = 0; j < length; ++j) {
      const size_t to = (static_cast<size_t>(b) * c.kv_heads + head) * present.rows + j;
      if (j < start) {
        const size_t from = (static_cast<size_t>(b) * c.kv_heads + head) * past.rows + j;
        std::copy_n(&past.codes[from * row_bytes], row_bytes, &present.codes[to * row_bytes]);
        std::copy_n(&past.params[from * 2], 2, &present.params[to * 2]);
      } else {
        const size_t at = ((static_cast<size_t>(b) * c.tokens + j - start) * c.kv_heads + head) * c.dim;
        std::vector<float> x(c.dim);
        for (int i = 0; i < c.dim; ++i) x[i] = ToFloat(fresh[at + i]);
        if (turn) x = Turn(x, j);
        QuantizeRow(x, c.bits, c.clip, &present.codes[to * row_bytes], &present.params[to * 2]);
      }
      rows.push_back(Dequantize(&present.codes[to * row_bytes], &present.params[to * 2], c.dim, c.bits));
    }
    return rows;
  }

  void Reference() {
    for (Cache* cache : {&present_k, &present_v}) {
      cache->rows = room;
      // In one buffer, rows behind the sequences keep what they held.
      if (c.same_buffer) {
        *cache = cache == &present_k ? past_k : past_v;
      } else {
        cache->codes.assign(static_cast<size_t>(c.batch) * c.kv_heads * room * row_bytes, 0);
        cache->params.assign(static_cast<size_t>(c.batch) * c.kv_heads * room * 2, 0);
      }
    }
    y.assign(static_cast<size_t>(c.batch) * c.tokens * c.heads * c.dim, 0.0);
    const int group = c.heads / c.kv_heads;
    for (int b = 0; b < c.batch; ++b) {
      const int length = Length(b), start = std::max(0, length - c.tokens);
      for (int kv_head = 0; kv_head < c.kv_heads; ++kv_head) {
        auto keys = Fill(present_k, past_k, k, b, kv_head, c.post);
        const auto values = Fill(present_v, past_v, v, b, kv_head, false);
        for (const auto& row : values) {
          for (float x : row) largest_value = std::max(largest_value, std::isfinite(x) ? std::fabs(double{x}) : 0.0);
        }
        if (!c.post) {
          for (int j = 0; j < length; ++j) keys[j] = Turn(keys[j], j);
        }
        for (int s = 0; s < std::min(c.tokens, length - start); ++s) {
          for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) Attend(b, s, h, start + s, keys, values);
        }
      }
    }
  }

  void Attend(int b, int s, int h, int position, const std::vector<std::vector<float>>& keys,
              const std::vector<std::vector<float>>& values) {
    const size_t at = ((static_cast<size_t>(b) * c.tokens + s) * c.heads + h) * c.dim;
    std::vector<float> x(c.dim);
    for (int i = 0; i < c.dim; ++i) x[i] = ToFloat(q[at + i]);
    x = Turn(x, position);
    const int end = c.causal ? position + 1 : static_cast<int>(keys.size());
    const int begin = c.window > 0 ? std::max(0, position - c.window + 1) : 0;
    std::vector<double> scores;
    double highest = -INFINITY;
    for (int j = begin; j < end; ++j) {
      double score = 0;
      for (int i = 0; i < c.dim; ++i) score += static_cast<double>(x[i]) * keys[j][i];
      score /= std::sqrt(static_cast<double>(c.dim));
      if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
      if (c.mask) score += ToFloat(mask[((c.mask_heads ? h : 0) * static_cast<size_t>(c.tokens) + s) * columns + j]);
      scores.push_back(score);
      highest = std::isnan(score) ? score : std::max(highest, score);
    }
    if (highest == -INFINITY) return;
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - highest);
    for (int j = begin; j < end; ++j) {
      for (int i = 0; i < c.dim; ++i) y[at + i] += scores[j - begin] / total * values[j][i];
    }
  }
};

template <class T>
void Run(Tally& tally, const Case& c, uint64_t seed) {
  const Data<T> data(c, seed);
  const bool half = sizeof(T) == 2;
  const std::string text = c.Text(half ? "f16" : "f32");
  KvArgs args;
  args.type = half ? DType::kF16 : DType::kF32;
  args.batch = c.batch, args.tokens = c.tokens, args.heads = c.heads, args.kv_heads = c.kv_heads, args.head_dim = c.dim;
  args.bits = c.bits;
  args.clip_over_last = c.clip / static_cast<float>((1 << c.bits) - 1);
  args.half_unclipped = (1.0f - c.clip) / 2.0f;
  args.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.dim)));
  args.softcap = c.softcap, args.causal = c.causal, args.window = c.window, args.rotary = c.rotary;
  args.rotate_on_read = c.rotary != KvRotary::kNone && !c.post;

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
    const double error = worst / std::max(data.largest_value, 1e-30), allowed = half ? 2e-3 : 1e-5;
    char what[96];
    std::snprintf(what, sizeof what, ": %s error %.2e of the largest value, expected %.0e%s", kernel.name, error,
                  allowed, nans ? "" : ", NaNs differ");
    tally.Add(error <= allowed && nans && y.guard_intact(), text + what);
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
    CHECK_CUDA(cuda::kKvKernels[i].run(args, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    const auto got = y.host();
    bool ok = true;
    for (int j = 0; j < 256; ++j) ok &= std::isnan(ToFloat(got[j])) == (j < 128);
    tally.Add(ok, std::string("a length over the capacity: ") + cuda::kKvKernels[i].name);
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
    add([&](Case& c) { c.tokens = tokens, c.past = 5, c.odd_value = NAN; });
    add([&](Case& c) { c.tokens = tokens, c.past = 5, c.odd_value = 60000; });
    add([&](Case& c) { c.tokens = tokens, c.past = 5, c.odd_value = 1e-7f, c.bits = 8; });
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
  }
  RunBadLength(tally);
  std::printf("attention: %d passed, %d failed\n", tally.passed, tally.failed);
}

}  // namespace lowbit::test
