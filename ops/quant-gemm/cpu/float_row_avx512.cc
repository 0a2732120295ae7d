// QuantGemm for a few rows when sums are floats (float or minifloat codes on either side) with AVX-512: dot products
// along K, weights decoded in registers.
//
// 64 bytes of nibbles are 16 words of 8 codes. Nibble j of all words, looked up in a table of 16 floats, meets the
// activations of channels j, 8 + j, 16 + j …: so activations are packed in that order, and weights need no shuffling.
//
//   packed row   float [segment][chunk of 128 channels][j][word], zeros behind a segment's end; bytes: [channel]; then
//                the outliers [channel]
#include <immintrin.h>

#include "native/core/cpu_features.h"
#include "ops/formats/minifloat.h"
#include "ops/quant-gemm/cpu/avx512_lanes.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

using F = __m512;

constexpr int64_t kLanes = 16;
constexpr int kColumns = 4;          // output channels at once: they share the activations that are read
constexpr int kAhead = 8;            // output channels later, weights are fetched: the hardware does not guess so far
constexpr int64_t kChunk = 128;      // channels in 64 bytes of nibbles
constexpr int64_t kByteChunk = 32;   // channels at once where a code is a byte
constexpr float kE4M3Unit = 256.0f;  // decoded e4m3 values are so much too small

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <Codes kB>
inline constexpr CodeValues<16> kValues = kB == Codes::kE2M1     ? MinifloatValues<16>(kE2M1)
                                          : kB == Codes::kE3M0   ? MinifloatValues<16>(kE3M0)
                                          : kB == Codes::kBnbFp4 ? BnbFp4Values()
                                                                 : IntegerValues<16>();

/// Floats that `channels` channels of a segment take.
template <Codes kB>
int64_t Padded(int64_t channels) {
  constexpr int64_t kMultiple = IsNibble(kB) ? kChunk : kByteChunk;
  return Ceil(channels, kMultiple) * kMultiple;
}

template <Codes kB>
int64_t RowFloats(const Args& args) {
  return args.segments * Padded<kB>(args.segment) + Padded<Codes::kS8>(args.outliers);
}

/// 32 bytes as floats: the first 16, then the others. For e4m3, kE4M3Unit times too small.
template <Codes kB>
LOWBIT_INLINE inline void Decode(__m256i bytes, F (&values)[2]) {
  if constexpr (kB == Codes::kS8) {
    values[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes)));
    values[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1)));
  } else {
    const __m512i code = _mm512_cvtepu8_epi16(bytes), magnitude = _mm512_and_si512(code, _mm512_set1_epi16(0x7f));
    const __m512i sign = _mm512_slli_epi16(_mm512_xor_si512(code, magnitude), 8);
    __m512i half = _mm512_or_si512(_mm512_slli_epi16(magnitude, 7), sign);
    const __mmask32 nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
    half = _mm512_mask_mov_epi16(half, nan, _mm512_set1_epi16(0x7e00));
    values[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(half));
    values[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1));
  }
}

/// acc[c] += the products of `channels` channels of kColumns rows of weights, `b_row` apart.
template <Codes kB>
LOWBIT_INLINE inline void Dot(const float* a, const uint8_t* b, int64_t b_row, int64_t channels, F (&acc)[kColumns]) {
  if constexpr (IsNibble(kB)) {
    const F table = _mm512_loadu_ps(kValues<kB>.of);
    for (int64_t k = 0; k < channels; k += kChunk, a += kChunk, b += kChunk / 2) {
      const __mmask64 mask = FirstBytes((Min(kChunk, channels - k) + 1) / 2);
      __m512i word[kColumns];
      Unroll<kColumns>([&](auto c) LOWBIT_INLINE {
        Prefetch(b + (kAhead + c.value) * b_row);
        word[c.value] = _mm512_maskz_loadu_epi8(mask, b + c.value * b_row);
      });
      Unroll<8>([&](auto j) LOWBIT_INLINE {
        const F of_nibble = _mm512_loadu_ps(a + j.value * kLanes);
        Unroll<kColumns>([&](auto c) LOWBIT_INLINE {
          const F weights = _mm512_permutexvar_ps(_mm512_srli_epi32(word[c.value], 4 * j.value), table);
          acc[c.value] = _mm512_fmadd_ps(weights, of_nibble, acc[c.value]);
        });
      });
    }
  } else {
    for (int64_t k = 0; k < channels; k += kByteChunk, a += kByteChunk, b += kByteChunk) {
      const __mmask32 mask = static_cast<__mmask32>(FirstBytes(Min(kByteChunk, channels - k)));
      const F a0 = _mm512_loadu_ps(a), a1 = _mm512_loadu_ps(a + kLanes);
      Unroll<kColumns>([&](auto c) LOWBIT_INLINE {
        F weights[2];
        if (k % 64 == 0) Prefetch(b + (kAhead + c.value) * b_row);
        Decode<kB>(_mm256_maskz_loadu_epi8(mask, b + c.value * b_row), weights);
        acc[c.value] = _mm512_fmadd_ps(weights[0], a0, acc[c.value]);
        acc[c.value] = _mm512_fmadd_ps(weights[1], a1, acc[c.value]);
      });
    }
  }
}

/// A float16 in all lanes.
LOWBIT_INLINE inline F Repeat(uint16_t half) { return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(half))); }

/// The sums of one row with kColumns channels from `n` on, all scales applied, lanes not yet added up. Behind the last
/// channel, the last one again.
template <Codes kB>
LOWBIT_INLINE inline void Columns(const Args& args, const float* a, const float* a_scale, int64_t n,
                                  F (&total)[kColumns]) {
  F acc[kColumns];
  Unroll<kColumns>([&](auto c) LOWBIT_INLINE { total[c.value] = _mm512_setzero_ps(); });
  const int64_t padded = Padded<kB>(args.segment), bytes = IsNibble(kB) ? args.segment / 2 : args.segment;
  const auto scaled = [&](const uint16_t* scale, int64_t row, float of_row) LOWBIT_INLINE {
    Unroll<kColumns>([&](auto c) LOWBIT_INLINE {
      const F both = _mm512_mul_ps(Repeat(scale[c.value * row]), _mm512_set1_ps(of_row));
      total[c.value] = _mm512_fmadd_ps(acc[c.value], both, total[c.value]);
    });
  };
  for (int64_t s = 0; s < args.segments; ++s) {
    Unroll<kColumns>([&](auto c) LOWBIT_INLINE { acc[c.value] = _mm512_setzero_ps(); });
    Dot<kB>(a + s * padded, args.b + n * args.b_row + s * bytes, args.b_row, args.segment, acc);
    scaled(args.b_scale + n * args.b_scale_row + s * args.b_scale_step, args.b_scale_row,
           (a_scale == nullptr ? 1.0f : a_scale[s * args.a_scale_step]) * (kB == Codes::kE4M3 ? kE4M3Unit : 1.0f));
  }
  if (args.outliers > 0) {
    Unroll<kColumns>([&](auto c) LOWBIT_INLINE { acc[c.value] = _mm512_setzero_ps(); });
    const uint8_t* b = reinterpret_cast<const uint8_t*>(args.b_outlier) + n * args.b_outlier_row;
    Dot<Codes::kS8>(a + args.segments * padded, b, args.b_outlier_row, args.outliers, acc);
    scaled(args.b_outlier_scale + n, 1, a_scale[args.a_scale_row - 1]);
  }
}

/// One row's activations as floats in the order of the products.
template <Codes kA, Codes kB>
void PackRow(const Args& args, int64_t row, float* out) {
  const int64_t first = row * (args.body + args.outliers), padded = Padded<kB>(args.segment);
  const int8_t* codes = static_cast<const int8_t*>(args.a) + first;
  const auto value = [&](int64_t k) {
    if constexpr (kA == Codes::kTable) return args.a_values[static_cast<uint8_t>(codes[k])];
    return args.half_a ? _cvtsh_ss(static_cast<const uint16_t*>(args.a)[first + k])
                       : static_cast<const float*>(args.a)[first + k];
  };
  for (int64_t s = 0; s < args.segments; ++s, out += padded) {
    for (int64_t i = 0; i < padded; ++i) out[i] = 0.0f;
    for (int64_t k = 0; k < args.segment; ++k) {
      const int64_t in_chunk = k % kChunk;
      const int64_t place = IsNibble(kB) ? k - in_chunk + in_chunk % 8 * kLanes + in_chunk / 8 : k;
      out[place] = value(s * args.segment + k);
    }
  }
  for (int64_t k = 0; k < Padded<Codes::kS8>(args.outliers); ++k) {
    out[k] = k < args.outliers ? static_cast<float>(codes[args.body + k]) : 0.0f;
  }
}

template <Codes kA, Codes kB>
void Pack(const Args& args, const Block& block, int64_t begin, int64_t end, void* packed) {
  for (int64_t r = begin; r < end; ++r) {
    PackRow<kA, kB>(args, block.row + r, static_cast<float*>(packed) + r * RowFloats<kB>(args));
  }
}

template <Codes kA, Codes kB>
void Run(const Args& args, const Block& block, const void* packed, void*) {
  for (int64_t n = block.n_begin; n < block.n_end; n += kLanes) {
    const int64_t columns = Min(kLanes, block.n_end - n);
    for (int64_t r = 0; r < block.rows; ++r) {
      const float* a = static_cast<const float*>(packed) + r * RowFloats<kB>(args);
      const float* a_scale = kA == Codes::kFloat ? nullptr : args.a_scale + (block.row + r) * args.a_scale_row;
      alignas(64) float sums[kLanes];
      for (int64_t c = 0; c < columns; c += kColumns) {
        F total[kColumns];
        Columns<kB>(args, a, a_scale, n + c, total);
        Unroll<kColumns>([&](auto i) LOWBIT_INLINE { sums[c + i.value] = _mm512_reduce_add_ps(total[i.value]); });
      }
      const int64_t index = (block.row + r) * args.n + n;
      F y = _mm512_load_ps(sums);
      if (args.bias != nullptr) y = _mm512_add_ps(y, LoadLanes(args.bias, n, columns, args.half));
      if (args.residual != nullptr) y = _mm512_add_ps(y, LoadLanes(args.residual, index, columns, args.half));
      StoreLanes(args.y, index, columns, args.half, y);
    }
  }
}

template <Codes kB>
int64_t PackedBytes(const Args& args, int64_t rows) {
  return rows * RowFloats<kB>(args) * 4;
}
inline int64_t NoBytes(const Args&, int64_t) { return 0; }
inline bool FewRows(const Shape& shape) { return shape.rows <= kFewRows && shape.n % kColumns == 0; }

template <Codes kA, Codes kB>
constexpr GemmKernel Make(const char* name) {
  return {name, kCpuAvx512, kA, kB, kFewRows, 1, kLanes, FewRows, PackedBytes<kB>, NoBytes, Pack<kA, kB>, Run<kA, kB>};
}

constexpr GemmKernel kTable[] = {
    Make<Codes::kTable, Codes::kE2M1>("x8e2m1_f32_1x16__avx512"),
    Make<Codes::kTable, Codes::kE3M0>("x8e3m0_f32_1x16__avx512"),
    Make<Codes::kTable, Codes::kBnbFp4>("x8bnb4_f32_1x16__avx512"),
    Make<Codes::kTable, Codes::kE4M3>("x8e4m3_f32_1x16__avx512"),
    Make<Codes::kTable, Codes::kS4>("x8s4_f32_1x16__avx512"),
    Make<Codes::kTable, Codes::kS8>("x8s8_f32_1x16__avx512"),
    Make<Codes::kFloat, Codes::kE2M1>("f32e2m1_f32_1x16__avx512"),
    Make<Codes::kFloat, Codes::kE3M0>("f32e3m0_f32_1x16__avx512"),
    Make<Codes::kFloat, Codes::kBnbFp4>("f32bnb4_f32_1x16__avx512"),
    Make<Codes::kFloat, Codes::kE4M3>("f32e4m3_f32_1x16__avx512"),
    Make<Codes::kFloat, Codes::kS4>("f32s4_f32_1x16__avx512"),
    Make<Codes::kFloat, Codes::kS8>("f32s8_f32_1x16__avx512"),
};

}  // namespace

Table FloatRowAvx512Kernels() { return {kTable, sizeof kTable / sizeof kTable[0]}; }

}  // namespace lowbit::gemm
