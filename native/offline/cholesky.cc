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

// Factors the small diagonal block in double: its rounding errors would otherwise reach every later column.
int64_t FactorDiagonal(float* a, int64_t lda, int64_t n) {
  std::vector<double> l(n * n, 0.0);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j <= i; j++) {
      double sum = a[i * lda + j];
      for (int64_t k = 0; k < j; k++) sum -= l[i * n + k] * l[j * n + k];
      if (i == j) {
        if (!(sum > 0.0) || !std::isfinite(sum)) return i;
        l[i * n + i] = std::sqrt(sum);
      } else {
        l[i * n + j] = sum / l[j * n + j];
      }
    }
  }
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j <= i; j++) a[i * lda + j] = static_cast<float>(l[i * n + j]);
  }
  return -1;
}

// inverse[n, n] = the inverse of the lower triangular block at a; upper triangle zero.
void InvertDiagonal(const float* a, int64_t lda, int64_t n, std::vector<double>* inverse) {
  inverse->assign(n * n, 0.0);
  std::vector<double>& x = *inverse;
  for (int64_t j = 0; j < n; j++) {
    x[j * n + j] = 1.0 / a[j * lda + j];
    for (int64_t i = j + 1; i < n; i++) {
      double sum = 0.0;
      for (int64_t k = j; k < i; k++) sum += static_cast<double>(a[i * lda + k]) * x[k * n + j];
      x[i * n + j] = -sum / a[i * lda + i];
    }
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
        // Rows above c0 hold the upper triangle's leftovers in these columns; within the stripe they are masked below.
        std::vector<float> above((b - c0) * cc);
        for (int64_t k = c0; k < b; k++) {
          for (int64_t c = 0; c < cc; c++) above[(k - c0) * cc + c] = k >= c0 + c ? l[k * n + c0 + c] : 0.0f;
        }
        SubtractTransposedProduct(&left[c0 * nb], nb, above.data(), cc, &product[c0], b, nb, cc, b - c0);
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
