// QuantKvAttention on the host: a case, its random inputs, the cache bit for bit and attention in double over the
// dequantized cache. Compiled with -ffp-contract=off.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "ops/quant-kv-attention/cuda/launch.h"
#include "test/gpu/check.h"

namespace lowbit::test::kv {

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

inline float Half(uint16_t bits) {
  __half h;
  std::memcpy(&h, &bits, 2);
  return __half2float(h);
}
inline uint16_t HalfBits(float x) {
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
inline void QuantizeRow(const std::vector<float>& x, int bits, float clip, uint8_t* codes, uint16_t* params) {
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

inline std::vector<float> Dequantize(const uint8_t* codes, const uint16_t* params, int dim, int bits) {
  std::vector<float> x(dim);
  for (int i = 0; i < dim; ++i) {
    const int code = bits == 8 ? codes[i] : codes[i / 2] >> (4 * (i & 1)) & 15;
    x[i] = static_cast<float>(code) * Half(params[0]) + Half(params[1]);
  }
  return x;
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

}  // namespace lowbit::test::kv
