#include "native/offline/gemm_tn.h"

#include <algorithm>
#include <cstring>

namespace lowbit::offline {
namespace {

// 16 floats: one AVX-512 register, two AVX2 registers, four SSE registers; the compiler splits it for the clone it
// builds.
typedef float Lanes __attribute__((vector_size(64), aligned(4)));

constexpr int kRows = 8;     // rows of c in registers
constexpr int kVectors = 3;  // vectors per row: 24 accumulators of the 32 AVX-512 registers
constexpr int kCols = 16 * kVectors;
constexpr int64_t kDepth = 256;  // a slab of b of kDepth x kCols floats (48 KiB) stays in the first-level cache

// acc[kRows][kVectors] = Σ_k a[k, 0..kRows) ⊗ b[k, 0..kCols); then c -= acc. b is packed [depth][kCols].
__attribute__((target_clones("avx512f", "avx2,fma", "default"))) void Tile(const float* a, int64_t lda,
                                                                           const float* packed, float* c, int64_t ldc,
                                                                           int64_t depth) {
  // Every index into acc must be a constant after unrolling, or the accumulators live in memory.
  Lanes acc[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; k++) {
    const Lanes* row = reinterpret_cast<const Lanes*>(packed + k * kCols);
    const float* column = a + k * lda;
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m++) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; v++) acc[m][v] += row[v] * column[m];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; v++) {
      Lanes* out = reinterpret_cast<Lanes*>(c + m * ldc + 16 * v);
      *out -= acc[m][v];
    }
  }
}

}  // namespace

void SubtractTransposedProduct(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                               int64_t rows, int64_t cols, int64_t depth) {
  alignas(64) float packed[kDepth * kCols];
  alignas(64) float left[kDepth * kRows];
  alignas(64) float result[kRows * kCols];
  for (int64_t k0 = 0; k0 < depth; k0 += kDepth) {
    const int64_t kc = std::min(kDepth, depth - k0);
    for (int64_t n0 = 0; n0 < cols; n0 += kCols) {
      const int64_t nc = std::min<int64_t>(kCols, cols - n0);
      for (int64_t k = 0; k < kc; k++) {
        std::memcpy(packed + k * kCols, b + (k0 + k) * ldb + n0, nc * sizeof(float));
        std::fill(packed + k * kCols + nc, packed + (k + 1) * kCols, 0.0f);
      }
      for (int64_t m0 = 0; m0 < rows; m0 += kRows) {
        const int64_t mc = std::min<int64_t>(kRows, rows - m0);
        const float* tile_a = a + k0 * lda + m0;
        float* tile_c = c + m0 * ldc + n0;
        if (mc == kRows && nc == kCols) {
          Tile(tile_a, lda, packed, tile_c, ldc, kc);
          continue;
        }
        // Edges run the same tile on padded copies.
        for (int64_t k = 0; k < kc; k++) {
          for (int m = 0; m < kRows; m++) left[k * kRows + m] = m < mc ? tile_a[k * lda + m] : 0.0f;
        }
        std::fill(result, result + kRows * kCols, 0.0f);
        Tile(left, kRows, packed, result, kCols, kc);
        for (int64_t m = 0; m < mc; m++) {
          for (int64_t n = 0; n < nc; n++) tile_c[m * ldc + n] += result[m * kCols + n];
        }
      }
    }
  }
}

}  // namespace lowbit::offline
