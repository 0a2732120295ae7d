#include "native/offline/quadratic_form.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "native/offline/gemm_tn.h"
#include "native/offline/parallel.h"

namespace lowbit::offline {
namespace {

constexpr int64_t kRows = 48;     // rows of D a thread takes together: one tile of the product
constexpr int64_t kStripe = 256;  // channels per product

}  // namespace

double QuadraticForm(const float* d, const float* h, int64_t rows, int64_t cols, int threads) {
  double total = 0.0;
  std::mutex lock;
  ForEach((rows + kRows - 1) / kRows, threads, [&](int64_t item) {
    const int64_t row0 = item * kRows, count = std::min(kRows, rows - row0);
    // D's rows as columns, channel-major; a short last chunk is padded with zeros.
    std::vector<float> columns(cols * kRows, 0.0f), product(kStripe * kRows);
    for (int64_t n = 0; n < count; n++) {
      for (int64_t k = 0; k < cols; k++) columns[k * kRows + n] = d[(row0 + n) * cols + k];
    }
    double sum = 0.0;
    for (int64_t k0 = 0; k0 < cols; k0 += kStripe) {
      const int64_t kc = std::min(kStripe, cols - k0);
      // H is symmetric: blocks right of the diagonal count twice, those left of it not at all.
      for (int64_t j0 = k0; j0 < cols; j0 += kStripe) {
        const int64_t jc = std::min(kStripe, cols - j0);
        std::fill(product.begin(), product.end(), 0.0f);
        SubtractTransposedProduct(h + j0 * cols + k0, cols, &columns[j0 * kRows], kRows, product.data(), kRows, kc,
                                  kRows, jc);
        double part = 0.0;
        for (int64_t k = 0; k < kc; k++) {
          for (int64_t n = 0; n < kRows; n++) {
            part -= static_cast<double>(product[k * kRows + n]) * columns[(k0 + k) * kRows + n];
          }
        }
        sum += j0 == k0 ? part : 2.0 * part;
      }
    }
    const std::lock_guard<std::mutex> hold(lock);
    total += sum;
  });
  return total;
}

}  // namespace lowbit::offline
