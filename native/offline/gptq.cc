#include "native/offline/gptq.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "native/core/float16.h"
#include "native/offline/cholesky.h"
#include "native/offline/gemm_tn.h"
#include "native/offline/parallel.h"
#include "native/offline/round_lanes.h"

namespace lowbit::offline {
namespace {

constexpr int64_t kChunk = kLanes;   // rows of W a thread rounds together
constexpr int64_t kTransposed = 32;  // channels that are turned together
constexpr int64_t kLazyBlock = 128;  // channels after which the later channels are updated

// The order of rounding. step s rounds channel order[s].
std::vector<int64_t> RoundingOrder(const GptqSpec& spec) {
  const int64_t body = spec.cols - spec.outlier_channels;
  std::vector<int64_t> order(spec.cols);
  for (int64_t s = 0; s < spec.cols; s++) order[s] = s < body && spec.body_descending ? body - 1 - s : s;
  return order;
}

// Cuts [0, body) into lazy blocks that do not split a group unless the group spans whole blocks: a group's scale is
// taken when its first channel is reached, and by then all its channels must hold every earlier correction.
int64_t LazyBlock(int64_t group, int64_t body) {
  if (group == 0 || group == body) return kLazyBlock;
  if (group % kLazyBlock == 0) return kLazyBlock;
  return group > kLazyBlock ? group : group * (kLazyBlock / group);
}

// The dampened inverse factor, in reversed order of rounding: row r of the lower triangle of `h` becomes the row of U
// for step K−1−r, where U is the upper Cholesky factor of H⁻¹. With J the reversal, J·H·J = L·Lᵀ gives U = J·L⁻¹·J: one
// factorization, one inverse.
bool InverseFactor(const GptqSpec& spec, const std::vector<int64_t>& order, float* h, std::vector<char>* dead,
                   GptqResult* result) {
  const int64_t k = spec.cols;
  dead->assign(k, 0);
  double mean = 0.0;
  for (int64_t i = 0; i < k; i++) {
    const float diagonal = h[i * k + i];
    if (!std::isfinite(diagonal) || diagonal < 0.0f) {
      result->error = "Hessian diagonal " + std::to_string(i) + " is " + std::to_string(diagonal) +
                      ", expected a finite value >= 0";
      return false;
    }
    if (diagonal == 0.0f) {
      (*dead)[i] = 1;
      h[i * k + i] = 1.0f;
    }
    mean += h[i * k + i];
  }
  mean /= static_cast<double>(k);

  std::vector<float> factor(k * k);
  for (double damping = spec.percdamp * mean, tries = 0;
       tries<8; tries++, damping = damping> 0 ? damping * 10 : 1e-4 * mean) {
    ForEach(k, spec.threads, [&](int64_t r) {
      const int64_t i = order[k - 1 - r];
      for (int64_t c = 0; c <= r; c++) factor[r * k + c] = h[i * k + order[k - 1 - c]];
      factor[r * k + r] += static_cast<float>(damping);
    });
    if (CholeskyInPlace(factor.data(), k, spec.threads) >= 0) continue;
    InvertLowerInPlace(factor.data(), k, spec.threads);
    result->damping = damping;
    std::copy(factor.begin(), factor.end(), h);
    return true;
  }
  result->error = "Hessian is not positive definite even with 10^7 times the damping";
  return false;
}

// w[r, lane] -= e[lane] · u[r] for r < rows: the correction inside a lazy block.
__attribute__((target_clones("avx512f", "avx2,fma", "default"))) void UpdateBlock(float* w, const float* e,
                                                                                  const float* u, int64_t rows) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t lane = 0; lane < kChunk; lane++) w[r * kChunk + lane] -= e[lane] * u[r];
  }
}

// One chunk of rows: w is [cols, kChunk], channel-major, channel c in row `slot[c]` (reversed order of rounding, like
// the factor).
class RowChunk {
 public:
  RowChunk(const GptqSpec& spec, const std::vector<int64_t>& order, const std::vector<float>& energy,
           const float* factor)
      : spec_(spec),
        order_(order),
        energy_(energy),
        factor_(factor),
        body_(spec.cols - spec.outlier_channels),
        w_(spec.cols * kChunk),
        slot_(spec.cols) {
    for (int64_t s = 0; s < spec.cols; s++) slot_[order[s]] = spec.cols - 1 - s;
  }

  // Rounds rows [row0, row0 + count); returns their share of the loss.
  double Run(int64_t row0, int64_t count, float* weights, const std::vector<char>& dead, int8_t* codes,
             uint16_t* scales, uint16_t* outlier_scales) {
    const int64_t k = spec_.cols, group = spec_.group_size ? spec_.group_size : body_, groups = body_ / group;
    Load(weights + row0 * k, count, dead);
    const int64_t block = LazyBlock(spec_.group_size, body_);
    std::vector<float> error(block * kChunk);
    std::vector<int8_t> block_codes(block * kChunk);
    float scale[kChunk], inv_scale[kChunk], loss[kChunk] = {};
    FitLargest(count);
    std::fill_n(scale, kChunk, 1.0f);
    std::fill_n(inv_scale, kChunk, 1.0f);
    for (int64_t s0 = 0; s0 < body_; s0 += block) {
      const int64_t s1 = std::min(body_, s0 + block);
      for (int64_t s = s0; s < s1; s++) {
        const int64_t channel = order_[s], row = k - 1 - s;
        if (s % group == 0) {
          FitScale(channel / group * group, group, count, scale, scales + row0 * groups + channel / group, groups);
          for (int64_t n = 0; n < count; n++) inv_scale[n] = 1.0f / scale[n];
        }
        const float* u = factor_ + row * k;  // u[row − d] is U(s, s + d)
        const float pivot = 1.0f / u[row];
        float* e = &error[(s1 - 1 - s) * kChunk];  // ascending rows of the factor
        // Lanes past count hold zeros, which lie on every grid.
        RoundLanes(spec_.grid, &w_[row * kChunk], scale, inv_scale, pivot, e, loss, &block_codes[(s - s0) * kChunk]);
        UpdateBlock(&w_[(k - s1) * kChunk], e, u + k - s1, row - (k - s1));
      }
      for (int64_t n = 0; n < count; n++) {
        int8_t* out = codes + (row0 + n) * k;
        for (int64_t s = s0; s < s1; s++) out[order_[s]] = block_codes[(s - s0) * kChunk + n];
      }
      // Rows of the factor for steps s1−1 … s0 are k−s1 … k−1−s0; the channels not yet rounded are rows 0 … k−1−s1.
      SubtractTransposedProduct(factor_ + (k - s1) * k, k, error.data(), kChunk, w_.data(), kChunk, k - s1, kChunk,
                                s1 - s0);
    }
    RoundOutliers(row0, count, codes, outlier_scales);
    Store(weights + row0 * k, count);
    double total = 0.0;
    for (int64_t n = 0; n < count; n++) total += loss[n];
    return total;
  }

 private:
  // Rows of the layer to channels of the chunk and back, a few channels at a time: their lines stay in the cache.
  void Load(const float* rows, int64_t count, const std::vector<char>& dead) {
    std::fill(w_.begin(), w_.end(), 0.0f);
    for (int64_t c0 = 0; c0 < spec_.cols; c0 += kTransposed) {
      const int64_t c1 = std::min(spec_.cols, c0 + kTransposed);
      for (int64_t n = 0; n < count; n++) {
        for (int64_t c = c0; c < c1; c++) w_[slot_[c] * kChunk + n] = dead[c] ? 0.0f : rows[n * spec_.cols + c];
      }
    }
  }

  void Store(float* rows, int64_t count) const {
    for (int64_t c0 = 0; c0 < spec_.cols; c0 += kTransposed) {
      const int64_t c1 = std::min(spec_.cols, c0 + kTransposed);
      for (int64_t n = 0; n < count; n++) {
        for (int64_t c = c0; c < c1; c++) rows[n * spec_.cols + c] = w_[slot_[c] * kChunk + n];
      }
    }
  }

  // Rows [begin, end) of the chunk that share scales.
  struct Rows {
    int64_t begin, end;
  };

  // The scale of each row for channels [first, first + length), from the weights as they are now: float16, shared by
  // channel_group rows.
  void FitScale(int64_t first, int64_t length, int64_t count, float* scale, uint16_t* out, int64_t stride) const {
    for (int64_t n = 0; n < count; n += spec_.channel_group) {
      const Rows rows{n, std::min(count, n + spec_.channel_group)};
      const bool weighted = spec_.clip_search == ClipSearch::kHessian;
      bool zeros = false;
      uint16_t bits = FreeScale(first, length, rows, &zeros);
      if (spec_.scale_rule.constraint != ScaleConstraint::kNone)
        bits = FloatToHalf(
            NearestAllowed(zeros ? 0.0f : HalfToFloat(bits), largest_[n], first, length, rows, weighted).scale);
      for (int64_t row = n; row < rows.end; row++) {
        scale[row] = HalfToFloat(bits);
        out[row * stride] = bits;
      }
    }
  }

  // The stored scale that rows take for channels [first, first + length) where no rule holds; whether they are zeros.
  uint16_t FreeScale(int64_t first, int64_t length, Rows rows, bool* zeros) const {
    float most = 0.0f;
    for (int64_t c = first; c < first + length; c++) {
      const float* value = &w_[slot_[c] * kChunk];
      for (int64_t n = rows.begin; n < rows.end; n++) most = std::max(most, std::fabs(value[n]));
    }
    *zeros = most == 0.0f;
    return spec_.clip_search == ClipSearch::kNone || *zeros ? StoredScale(most * (spec_.clip / spec_.range_max), most)
                                                            : SearchedScale(most, first, length, rows);
  }

  // The stored scale with the smallest squared error over rows [n, end); the ratios of
  // graph-rewrite/pack/clip-search.ts.
  uint16_t SearchedScale(float most, int64_t first, int64_t length, Rows rows) const {
    const bool weighted = spec_.clip_search == ClipSearch::kHessian;
    uint16_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= 12; i++) {
      const float ratio = 1.0f - static_cast<float>(i) / 25.0f;
      const uint16_t bits = StoredScale(most * (ratio / spec_.range_max), most);
      const double error = SquaredError(HalfToFloat(bits), first, length, rows, weighted);
      if (error >= least) continue;
      least = error;
      best = bits;
    }
    return best;
  }

  // What rounding with a scale loses; weighted: each channel's share by its entry on the Hessian's diagonal.
  double SquaredError(float scale, int64_t first, int64_t length, Rows rows, bool weighted) const {
    double error = 0.0;
    for (int64_t c = first; c < first + length; c++) {
      const float* value = &w_[slot_[c] * kChunk];
      double sum = 0.0;
      for (int64_t row = rows.begin; row < rows.end; row++) {
        const double off = value[row] - RoundToGrid(value[row] / scale, spec_.grid) * scale;
        sum += off * off;
      }
      error += weighted ? energy_[c] * sum : sum;
    }
    return error;
  }

  // What M2 takes ratios to, for each row, from the weights as they came: the largest of its free scales, or with kBest
  // the one of kRowFactors times it with which the row loses least, by the Hessian's diagonal.
  void FitLargest(int64_t count) {
    const ScaleRule& rule = spec_.scale_rule;
    if (rule.constraint == ScaleConstraint::kNone) return;
    const int64_t group = spec_.group_size ? spec_.group_size : body_, groups = body_ / group;
    const bool search = rule.constraint == ScaleConstraint::kM2 && rule.round == ScaleRound::kBest;
    std::vector<float> free(groups);
    for (int64_t n = 0; n < count; n += spec_.channel_group) {
      const Rows rows{n, std::min(count, n + spec_.channel_group)};
      for (int64_t g = 0; g < groups; g++) {
        bool zeros = false;
        const uint16_t bits = FreeScale(g * group, group, rows, &zeros);
        free[g] = zeros ? 0.0f : HalfToFloat(bits);
      }
      const float own = *std::max_element(free.begin(), free.end());
      float best = own == 0.0f ? 1.0f : own;
      double least = std::numeric_limits<double>::infinity();
      for (const float factor : kRowFactors) {
        const float largest = HalfToFloat(FloatToHalf(own * factor));
        if (!search || own == 0.0f || std::isinf(largest)) break;
        double error = 0.0;
        for (int64_t g = 0; g < groups; g++)
          error += NearestAllowed(free[g], largest, g * group, group, rows, true).error;
        if (error >= least) continue;
        least = error;
        best = largest;
      }
      std::fill(largest_ + rows.begin, largest_ + rows.end, best);
    }
  }

  struct Choice {
    float scale;
    double error;
  };

  // Of the scales allowed beside a row's `largest` the one that loses least; `own` is the free one, 0 for zeros.
  Choice NearestAllowed(float own, float largest, int64_t first, int64_t length, Rows rows, bool weighted) const {
    float allowed[2] = {};
    const int count = AllowedScales(spec_.scale_rule, own == 0.0f ? largest : own, largest, allowed);
    const Choice one{allowed[0], SquaredError(allowed[0], first, length, rows, weighted)};
    if (count == 1 || allowed[0] == allowed[1]) return one;
    const Choice other{allowed[1], SquaredError(allowed[1], first, length, rows, weighted)};
    return other.error < one.error ? other : one;
  }

  // As ops/formats/README.md: an all-zero segment has scale 1, an underflow the smallest float16.
  static uint16_t StoredScale(float scale, float most) {
    if (most == 0.0f) return 0x3c00;
    const uint16_t bits = FloatToHalf(scale);
    return bits == 0 ? 1 : bits;
  }

  // Atom: the outlier block takes the corrections and is then rounded to s8, one scale a row, no further propagation.
  void RoundOutliers(int64_t row0, int64_t count, int8_t* codes, uint16_t* outlier_scales) {
    if (spec_.outlier_channels == 0) return;
    for (int64_t n = 0; n < count; n++) {
      float most = 0.0f;
      for (int64_t c = body_; c < spec_.cols; c++) most = std::max(most, std::fabs(w_[slot_[c] * kChunk + n]));
      const uint16_t bits = StoredScale(most * (1.0f / 127.0f), most);
      outlier_scales[row0 + n] = bits;
      const float scale = HalfToFloat(bits), inv_scale = 1.0f / scale;
      for (int64_t c = body_; c < spec_.cols; c++) {
        float& value = w_[slot_[c] * kChunk + n];
        const float q = RoundToGrid(value * inv_scale, Grid::kS8);
        codes[(row0 + n) * spec_.cols + c] = static_cast<int8_t>(q);
        value = q * scale;
      }
    }
  }

  const GptqSpec& spec_;
  const std::vector<int64_t>& order_;
  const std::vector<float>& energy_;  // the Hessian's diagonal, in storage order
  const float* factor_;
  const int64_t body_;
  std::vector<float> w_;
  std::vector<int64_t> slot_;
  float largest_[kChunk];
};

}  // namespace

GptqResult Gptq(const GptqSpec& spec, float* weights, float* hessian, int8_t* codes, uint16_t* scales,
                uint16_t* outlier_scales, const std::function<void(int64_t, int64_t)>* progress,
                const std::atomic<bool>* cancel) {
  GptqResult result;
  const std::vector<int64_t> order = RoundingOrder(spec);
  std::vector<char> dead;
  std::vector<float> energy(spec.cols);
  for (int64_t i = 0; i < spec.cols; i++) energy[i] = hessian[i * spec.cols + i];
  if (!InverseFactor(spec, order, hessian, &dead, &result)) return result;
  std::mutex lock;
  int64_t done = 0;
  ForEach((spec.rows + kChunk - 1) / kChunk, spec.threads, [&](int64_t item) {
    if (cancel && cancel->load(std::memory_order_relaxed)) return;
    const int64_t row0 = item * kChunk, count = std::min(kChunk, spec.rows - row0);
    RowChunk chunk(spec, order, energy, hessian);
    const double loss = chunk.Run(row0, count, weights, dead, codes, scales, outlier_scales);
    const std::lock_guard<std::mutex> hold(lock);
    result.loss += loss;
    done += count;
    if (progress) (*progress)(done, spec.rows);
  });
  result.cancelled = cancel && cancel->load();
  return result;
}

}  // namespace lowbit::offline
