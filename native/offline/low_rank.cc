#include "native/offline/low_rank.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "native/offline/gemm_tn.h"
#include "native/offline/parallel.h"
#include "native/offline/symmetric_eigen.h"

namespace lowbit::offline {
namespace {

constexpr int64_t kTile = 48;    // columns that SubtractTransposedProduct computes together
constexpr int64_t kSpare = 16;   // directions beyond the rank, at least: the more, the fewer iterations
constexpr int64_t kStripe = 64;  // rows turned, or columns computed, as one piece of work
constexpr int kMaxIterations = 40;
constexpr double kEnough = 1e-5;  // relative growth of the captured energy at which iteration ends

// Independent numbers in [-1, 1), the same at every call.
void FillRandom(std::vector<float>& values) {
  uint64_t state = 0x9e3779b97f4a7c15u;
  for (float& value : values) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    value = static_cast<float>(static_cast<int64_t>(state)) * 0x1p-63f;
  }
}

// The matrix times a narrow one, from either side.
class Products {
 public:
  Products(const LowRankSpec& spec, const float* matrix, int64_t width) : spec_(spec), matrix_(matrix), width_(width) {}

  // y[rows, width] = −matrix · q[cols, width]. The sign does not matter to a subspace.
  void Forward(const std::vector<float>& q, std::vector<float>& y) const {
    ForEach((spec_.rows + kStripe - 1) / kStripe, spec_.threads, [&](int64_t item) {
      const int64_t first = item * kStripe, rows = std::min(kStripe, spec_.rows - first);
      std::vector<float> turned(spec_.cols * kStripe);
      for (int64_t r = 0; r < rows; r++) {
        const float* from = matrix_ + (first + r) * spec_.cols;
        for (int64_t k = 0; k < spec_.cols; k++) turned[k * kStripe + r] = from[k];
      }
      Multiply(turned.data(), kStripe, q, y, first, rows, spec_.cols);
    });
  }

  // z[cols, width] = −matrixᵀ · y[rows, width].
  void Back(const std::vector<float>& y, std::vector<float>& z) const {
    ForEach((spec_.cols + kStripe - 1) / kStripe, spec_.threads, [&](int64_t item) {
      const int64_t first = item * kStripe, count = std::min(kStripe, spec_.cols - first);
      Multiply(matrix_ + first, spec_.cols, y, z, first, count, spec_.rows);
    });
  }

 private:
  void Multiply(const float* a, int64_t lda, const std::vector<float>& b, std::vector<float>& c, int64_t first,
                int64_t rows, int64_t depth) const {
    float* out = c.data() + first * width_;
    std::fill_n(out, rows * width_, 0.0f);
    SubtractTransposedProduct(a, lda, b.data(), width_, out, width_, rows, width_, depth);
  }

  const LowRankSpec& spec_;
  const float* const matrix_;
  const int64_t width_;
};

#define LOWBIT_CLONES __attribute__((target_clones("avx512f", "avx2,fma", "default")))

// mᵀ·m of m [rows, width].
LOWBIT_CLONES std::vector<double> Gram(const std::vector<float>& m, int64_t width) {
  std::vector<double> gram(width * width, 0.0);
  std::vector<double> wide(width);
  for (size_t at = 0; at < m.size(); at += width) {
    for (int64_t i = 0; i < width; i++) wide[i] = m[at + i];
    for (int64_t i = 0; i < width; i++) {
      double* out = &gram[i * width];
      for (int64_t j = 0; j <= i; j++) out[j] += wide[i] * wide[j];
    }
  }
  for (int64_t i = 0; i < width; i++) {
    for (int64_t j = i + 1; j < width; j++) gram[i * width + j] = gram[j * width + i];
  }
  return gram;
}

// (L⁻¹)ᵀ of the Cholesky factor of gram [width, width]. Where a column depends on those before it, its column is zero.
std::vector<double> InverseFactor(std::vector<double> l, int64_t width) {
  std::vector<double> turned(width * width, 0.0);  // turned[k, i] = L⁻¹[i, k]
  std::vector<double> inverse(width, 0.0);         // of the diagonal of L
  for (int64_t i = 0; i < width; i++) {
    const double whole = l[i * width + i];
    for (int64_t j = 0; j <= i; j++) {
      double sum = l[i * width + j];
      for (int64_t k = 0; k < j; k++) sum -= l[i * width + k] * l[j * width + k];
      if (j < i) {
        l[i * width + j] = sum * inverse[j];
      } else if (sum > 1e-12 * whole) {
        inverse[i] = 1 / std::sqrt(sum);
      }
    }
    turned[i * width + i] = inverse[i];
    for (int64_t j = 0; j < i; j++) {
      double sum = 0.0;
      for (int64_t k = j; k < i; k++) sum += l[i * width + k] * turned[j * width + k];
      turned[j * width + i] = -sum * inverse[i];
    }
  }
  return turned;
}

// m [rows, width] times upper triangular factors [width, width].
LOWBIT_CLONES void MultiplyUpper(float* m, int64_t rows, int64_t width, const double* factors) {
  std::vector<double> row(width);
  for (float* at = m; at < m + rows * width; at += width) {
    std::fill(row.begin(), row.end(), 0.0);
    for (int64_t k = 0; k < width; k++) {
      for (int64_t i = k; i < width; i++) row[i] += at[k] * factors[k * width + i];
    }
    for (int64_t i = 0; i < width; i++) at[i] = static_cast<float>(row[i]);
  }
}

// Columns of m [rows, width] become orthonormal by the Cholesky factor of their Gram matrix; columns that depend on
// those before them become zeros. Once more makes up for what float32 loses.
void Orthonormalize(std::vector<float>& m, int64_t width) {
  for (int pass = 0; pass < 2; pass++) {
    const std::vector<double> factors = InverseFactor(Gram(m, width), width);
    MultiplyUpper(m.data(), static_cast<int64_t>(m.size()) / width, width, factors.data());
  }
}

double Energy(const std::vector<float>& m) {
  double sum = 0.0;
  for (const float value : m) sum += double{value} * value;
  return sum;
}

// out[i, r] = scale[r] · Σ_j m[i, j] · vectors[j, r] for the first `rank` vectors; out is [rows, rank] or turned.
void Combine(const std::vector<float>& m, int64_t width, const std::vector<double>& vectors,
             const std::vector<double>& scale, int64_t rank, float* out, bool turned) {
  const int64_t rows = static_cast<int64_t>(m.size()) / width;
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t r = 0; r < rank; r++) {
      double sum = 0.0;
      for (int64_t j = 0; j < width; j++) sum += m[i * width + j] * vectors[j * width + r];
      out[turned ? r * rows + i : i * rank + r] = static_cast<float>(sum * scale[r]);
    }
  }
}

}  // namespace

bool LowRank(const LowRankSpec& spec, const float* matrix, float* up, float* down, const std::atomic<bool>* cancel) {
  const int64_t wanted = (spec.rank + kSpare + kTile - 1) / kTile * kTile;
  const int64_t width = std::min({wanted, spec.rows, spec.cols});
  const Products products(spec, matrix, width);
  std::vector<float> q(spec.cols * width), y(spec.rows * width);
  FillRandom(q);
  double captured = -1.0;
  for (int i = 0; i < kMaxIterations; i++) {
    if (cancel && cancel->load(std::memory_order_relaxed)) return false;
    if (i > 0) Orthonormalize(q, width);
    products.Forward(q, y);
    Orthonormalize(y, width);
    products.Back(y, q);
    const double energy = Energy(q);
    const bool enough = energy - captured <= kEnough * energy;
    captured = energy;
    if (enough || width == spec.rows || width == spec.cols) break;
  }
  // −yᵀ·matrix = qᵀ, so the singular values are those of q: qᵀ·q = P·S²·Pᵀ, U = −y·P and V = q·P·S⁻¹.
  std::vector<double> vectors;
  const std::vector<double> squares = SymmetricEigen(Gram(q, width), width, &vectors);
  std::vector<double> of_up(spec.rank), of_down(spec.rank);
  for (int64_t r = 0; r < spec.rank; r++) {
    const double root = std::sqrt(std::sqrt(std::max(0.0, squares[r])));
    of_up[r] = -root;
    of_down[r] = root > 0 ? 1 / root : 0;
  }
  Combine(y, width, vectors, of_up, spec.rank, up, false);
  Combine(q, width, vectors, of_down, spec.rank, down, true);
  return true;
}

}  // namespace lowbit::offline
