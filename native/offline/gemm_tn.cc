#include "native/offline/gemm_tn.h"

#include <algorithm>
#include <cstring>

namespace lowbit::offline {
namespace {

typedef float Floats16 __attribute__((vector_size(64)));  // one AVX-512 register
typedef float Floats8 __attribute__((vector_size(32)));   // one AVX2 register

constexpr int kRows = 8;         // rows of c in registers
constexpr int kCols = 48;        // columns: with AVX-512, 24 accumulators in 32 registers
constexpr int64_t kDepth = 256;  // a slab of b of kDepth x kCols floats (48 KiB) stays in the first-level cache

// c -= Σ_k a[k, 0..rows) ⊗ b[k, 0..vectors · size of Vector); b is packed [depth][kCols]. Inlined, to be built for the
// instructions of its caller. Every index into acc must be a constant after unrolling, or the accumulators live in
// memory.
template <typename Vector, int rows, int vectors>
__attribute__((always_inline)) inline void Subtract(const float* a, int64_t lda, const float* packed, float* c,
                                                    int64_t ldc, int64_t depth) {
  constexpr int width = sizeof(Vector) / sizeof(float);
  Vector acc[rows][vectors] = {};
  for (int64_t k = 0; k < depth; k++) {
    Vector row[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) std::memcpy(&row[v], packed + k * kCols + v * width, sizeof(Vector));
    const float* column = a + k * lda;
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) {
#pragma GCC unroll 3
      for (int v = 0; v < vectors; v++) acc[m][v] += row[v] * column[m];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; m++) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) {
      float* at = c + m * ldc + width * v;
      Vector out;
      std::memcpy(&out, at, sizeof(Vector));
      out -= acc[m][v];
      std::memcpy(at, &out, sizeof(Vector));
    }
  }
}

__attribute__((target("avx512f"))) void TileOf32Registers(const float* a, int64_t lda, const float* packed, float* c,
                                                          int64_t ldc, int64_t depth) {
  Subtract<Floats16, kRows, 3>(a, lda, packed, c, ldc, depth);
}

// Twelve accumulators in 16 registers, four rows of 24 columns at a time.
__attribute__((target_clones("avx2,fma", "default"))) void TileOf16Registers(const float* a, int64_t lda,
                                                                             const float* packed, float* c, int64_t ldc,
                                                                             int64_t depth) {
  for (int n = 0; n < kCols; n += 24) {
    for (int m = 0; m < kRows; m += 4) Subtract<Floats8, 4, 3>(a + m, lda, packed + n, c + m * ldc + n, ldc, depth);
  }
}

void Tile(const float* a, int64_t lda, const float* packed, float* c, int64_t ldc, int64_t depth) {
  static const auto tile = __builtin_cpu_supports("avx512f") ? TileOf32Registers : TileOf16Registers;
  tile(a, lda, packed, c, ldc, depth);
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
