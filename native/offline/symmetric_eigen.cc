#include "native/offline/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lowbit::offline {
namespace {

constexpr int kMaxSweeps = 30;

// Rows p and q of m [n, n] become cos·p − sin·q and sin·p + cos·q.
void RotateRows(double* m, int64_t n, int64_t p, int64_t q, double cosine, double sine) {
  double *a = m + p * n, *b = m + q * n;
  for (int64_t i = 0; i < n; i++) {
    const double x = a[i], y = b[i];
    a[i] = cosine * x - sine * y;
    b[i] = sine * x + cosine * y;
  }
}

// One rotation that makes a[p, q] zero; `basis` holds the eigenvectors found so far as rows.
void Rotate(std::vector<double>& a, std::vector<double>& basis, int64_t n, int64_t p, int64_t q) {
  const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
  const double t = std::copysign(1.0, theta) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
  const double cosine = 1 / std::sqrt(t * t + 1), sine = t * cosine;
  RotateRows(a.data(), n, p, q, cosine, sine);
  for (int64_t i = 0; i < n; i++) {
    const double x = a[i * n + p], y = a[i * n + q];
    a[i * n + p] = cosine * x - sine * y;
    a[i * n + q] = sine * x + cosine * y;
  }
  RotateRows(basis.data(), n, p, q, cosine, sine);
}

}  // namespace

std::vector<double> SymmetricEigen(std::vector<double> a, int64_t n, std::vector<double>* vectors) {
  std::vector<double> basis(n * n, 0.0);
  for (int64_t i = 0; i < n; i++) basis[i * n + i] = 1.0;
  for (int sweep = 0; sweep < kMaxSweeps; sweep++) {
    bool rotated = false;
    for (int64_t p = 0; p < n; p++) {
      for (int64_t q = p + 1; q < n; q++) {
        const double size = std::sqrt(std::fabs(a[p * n + p] * a[q * n + q]));
        if (std::fabs(a[p * n + q]) <= 1e-14 * size || a[p * n + q] == 0.0) continue;
        Rotate(a, basis, n, p, q);
        rotated = true;
      }
    }
    if (!rotated) break;
  }
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return a[i * n + i] > a[j * n + j]; });
  std::vector<double> values(n);
  vectors->resize(n * n);
  for (int64_t i = 0; i < n; i++) {
    values[i] = a[order[i] * n + order[i]];
    for (int64_t k = 0; k < n; k++) (*vectors)[k * n + i] = basis[order[i] * n + k];
  }
  return values;
}

}  // namespace lowbit::offline
