#include "native/offline/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "native/offline/gemm_tn.h"
#include "native/offline/parallel.h"

namespace lowbit::offline {
namespace {

constexpr int64_t kBlock = 128;  // columns factored at a time
constexpr int64_t kStripe =
    192;  // rows or columns of a trailing update handed to a thread at a time: a multiple of the tile's 48

// y -= factor · x
__attribute__((target_clones("avx512f", "avx2,fma", "default"))) void SubtractScaled(const double* x, double factor,
                                                                                     double* y, int64_t count) {
  for (int64_t i = 0; i < count; i++) y[i] -= factor * x[i];
}

// Factors the small diagonal block in double: its rounding errors would otherwise reach every later column. Column by
// column, L kept by columns, so that the inner loop runs over rows.
int64_t FactorDiagonal(float* a, int64_t lda, int64_t n) {
  std::vector<double> columns(n * n, 0.0);
  for (int64_t j = 0; j < n; j++) {
    double* column = &columns[j * n];
    for (int64_t i = j; i < n; i++) column[i] = a[i * lda + j];
    for (int64_t k = 0; k < j; k++) SubtractScaled(&columns[k * n] + j, columns[k * n + j], column + j, n - j);
    if (!(column[j] > 0.0) || !std::isfinite(column[j])) return j;
    const double pivot = std::sqrt(column[j]);
    for (int64_t i = j; i < n; i++) column[i] /= pivot;
  }
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j <= i; j++) a[i * lda + j] = static_cast<float>(columns[j * n + i]);
  }
  return -1;
}

// inverse[n, n] = the inverse of the lower triangular block at a; upper triangle zero.
void InvertDiagonal(const float* a, int64_t lda, int64_t n, std::vector<double>* inverse) {
  inverse->assign(n * n, 0.0);
  for (int64_t i = 0; i < n; i++) {
    double* row = &(*inverse)[i * n];
    row[i] = 1.0;
    for (int64_t k = 0; k < i; k++) SubtractScaled(&(*inverse)[k * n], a[i * lda + k], row, k + 1);
    for (int64_t j = 0; j <= i; j++) row[j] /= a[i * lda + i];
  }
}

// The transpose of -inverse, [n, n]: SubtractTransposedProduct with it on the left adds inverse · B.
std::vector<float> NegatedTranspose(const std::vector<double>& inverse, int64_t n) {
  std::vector<float> out(n * n);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) out[j * n + i] = static_cast<float>(-inverse[i * n + j]);
  }
  return out;
}

int64_t Stripes(int64_t n) { return (n + kStripe - 1) / kStripe; }

}  // namespace

int64_t CholeskyInPlace(float* h, int64_t n, int threads) {
  std::vector<double> inverse;
  std::vector<float> source(kBlock * n), panel(kBlock * n);
  for (int64_t b = 0; b < n; b += kBlock) {
    const int64_t nb = std::min(kBlock, n - b);
    const int64_t bad = FactorDiagonal(h + b * n + b, n, nb);
    if (bad >= 0) return b + bad;
    const int64_t rest = n - b - nb;
    if (rest == 0) break;
    InvertDiagonal(h + b * n + b, n, nb, &inverse);
    const std::vector<float> left = NegatedTranspose(inverse, nb);
    // panel = Pᵀ = L_bb⁻¹ · (rows below)ᵀ, [nb, rest]: transposed so that the trailing update is a plain Aᵀ·B.
    float* below = h + (b + nb) * n + b;
    ForEach(Stripes(rest), threads, [&](int64_t stripe) {
      const int64_t r0 = stripe * kStripe, rc = std::min(kStripe, rest - r0);
      for (int64_t r = r0; r < r0 + rc; r++) {
        for (int64_t c = 0; c < nb; c++) source[c * rest + r] = below[r * n + c];
      }
      for (int64_t c = 0; c < nb; c++) std::fill_n(&panel[c * rest + r0], rc, 0.0f);
      SubtractTransposedProduct(left.data(), nb, &source[r0], rest, &panel[r0], rest, nb, rc, nb);
      for (int64_t r = r0; r < r0 + rc; r++) {
        for (int64_t c = 0; c < nb; c++) below[r * n + c] = panel[c * rest + r];
      }
    });
    // Trailing rows, lower triangle by stripes; the last stripes are the longest, so they go first.
    float* trailing = h + (b + nb) * n + b + nb;
    const int64_t stripes = Stripes(rest);
    ForEach(stripes, threads, [&](int64_t item) {
      const int64_t r0 = (stripes - 1 - item) * kStripe, rc = std::min(kStripe, rest - r0);
      SubtractTransposedProduct(&panel[r0], rest, panel.data(), rest, trailing + r0 * n, n, rc, r0 + rc, nb);
    });
  }
  return -1;
}

void InvertLowerInPlace(float* l, int64_t n, int threads) {
  std::vector<double> inverse;
  std::vector<float> left(n * kBlock), product(kBlock * n);
  for (int64_t b = 0; b < n; b += kBlock) {
    const int64_t nb = std::min(kBlock, n - b);
    InvertDiagonal(l + b * n + b, n, nb, &inverse);
    if (b > 0) {
      // X_b = -L_bb⁻¹ · (L_b · X_above). Column c of X_above is zero above its own block, so those k are skipped.
      for (int64_t r = 0; r < nb; r++) {
        for (int64_t k = 0; k < b; k++) left[k * nb + r] = l[(b + r) * n + k];
      }
      const std::vector<float> scale = NegatedTranspose(inverse, nb);
      ForEach(Stripes(b), threads, [&](int64_t stripe) {
        const int64_t c0 = stripe * kStripe, cc = std::min(kStripe, b - c0);
        for (int64_t r = 0; r < nb; r++) std::fill_n(&product[r * b + c0], cc, 0.0f);
        // The stripe's own rows hold what is left of H right of the diagonal, so they are taken from a masked copy.
        const int64_t below = c0 + cc;
        std::vector<float> diagonal(cc * cc, 0.0f);
        for (int64_t k = c0; k < below; k++) std::copy_n(l + k * n + c0, k - c0 + 1, &diagonal[(k - c0) * cc]);
        SubtractTransposedProduct(&left[c0 * nb], nb, diagonal.data(), cc, &product[c0], b, nb, cc, cc);
        SubtractTransposedProduct(&left[below * nb], nb, l + below * n + c0, n, &product[c0], b, nb, cc, b - below);
        // product is now -(L_b · X_above); X_b = L_bb⁻¹ · product.
        for (int64_t r = 0; r < nb; r++) std::fill_n(l + (b + r) * n + c0, cc, 0.0f);
        SubtractTransposedProduct(scale.data(), nb, &product[c0], b, l + b * n + c0, n, nb, cc, nb);
      });
    }
    for (int64_t r = 0; r < nb; r++) {
      for (int64_t c = 0; c <= r; c++) l[(b + r) * n + b + c] = static_cast<float>(inverse[r * nb + c]);
    }
  }
}

}  // namespace lowbit::offline
