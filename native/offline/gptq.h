// GPTQ (Frantar et al., arXiv 2210.17323; the order and the outlier block are Atom's, arXiv 2310.19102): rounds a
// layer's weights one input channel at a time and moves each rounding error into the channels not yet rounded, weighted
// by the inverse Hessian of the layer's inputs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "native/offline/grid.h"
#include "native/offline/scale_rule.h"

namespace lowbit::offline {

/// Whether each group takes the clip ratio with the smallest squared error, each channel's error weighted by its entry
/// on the Hessian's diagonal or not.
enum class ClipSearch { kNone, kMse, kHessian };

struct GptqSpec {
  int64_t rows = 0;              // N, output channels
  int64_t cols = 0;              // K, input channels in storage order: the body, then the outliers
  int64_t outlier_channels = 0;  // O, the last channels, rounded to s8 per row after the body
  int64_t group_size = 0;        // body channels sharing a scale; 0: the whole body
  int64_t channel_group = 1;     // adjacent rows sharing a scale (Atom: 2)
  Grid grid = Grid::kS4;
  ScaleRule scale_rule;
  float range_max = 7.0f;  // scale = clip · absmax / range_max (Atom divides by 7.5 under GPTQ: 2·absmax/15)
  float clip = 1.0f;
  ClipSearch clip_search = ClipSearch::kNone;  // in place of clip
  double percdamp = 0.01;                      // damping, as a share of the Hessian's mean diagonal
  bool body_descending =
      false;  // process the body from its last channel to its first (most salient first), not from the first
  int threads = 1;
};

struct GptqResult {
  // Empty on success, else what was wrong.
  std::string error;
  double damping = 0.0;  // added to the diagonal in the end
  double loss = 0.0;     // Σ (w − q)² / U_ii²: GPTQ's own estimate of tr(ΔW·H·ΔWᵀ)
  bool cancelled = false;
};

// weights: float32 [rows, cols], overwritten by the compensated weights (their rounded values for rounded channels).
// hessian: float32 [cols, cols], symmetric, Σ x·xᵀ up to a positive factor; overwritten.
// codes: int8 [rows, cols]. scales: float16 bits [rows, groups]; outlier_scales: float16 bits [rows] or null when there
// are none. progress is called with (rows done, rows); cancel is read between row chunks. Both may be null.
GptqResult Gptq(const GptqSpec& spec, float* weights, float* hessian, int8_t* codes, uint16_t* scales,
                uint16_t* outlier_scales, const std::function<void(int64_t, int64_t)>* progress,
                const std::atomic<bool>* cancel);

}  // namespace lowbit::offline
