// Group scales whose ratios are powers of two (ZeroQuant-FP, arXiv 2307.09782): M1 makes each scale a power of two, M2
// each ratio of a row's scales to a scale that the row keeps. The same rule as graph-rewrite/pack/scale-rule.ts.
#pragma once

#include <algorithm>
#include <cmath>

namespace lowbit::offline {

enum class ScaleConstraint { kNone, kM1, kM2 };
/// How the exponent is rounded: of log2(scale) for M1, of log2(largest / scale) for M2. kBest tries both.
enum class ScaleRound { kCeil, kFloor, kBest };

/// What M2 with kBest tries for a row: its largest scale becomes its largest free one times one of these.
inline constexpr float kRowFactors[] = {1.0f, 1.1892071f, 1.4142135f, 1.6817929f};

struct ScaleRule {
  ScaleConstraint constraint = ScaleConstraint::kNone;
  ScaleRound round = ScaleRound::kBest;
};

/// Writes the scales allowed for a group (values that float16 holds) and returns how many: one, or two to choose from.
/// `scale` is the group's own, positive; `largest` the row's, as stored.
inline int AllowedScales(const ScaleRule& rule, float scale, float largest, float allowed[2]) {
  if (rule.constraint == ScaleConstraint::kNone) {
    allowed[0] = scale;
    return 1;
  }
  const bool m1 = rule.constraint == ScaleConstraint::kM1;
  const float x = m1 ? scale : largest / scale;
  const int floor = std::ilogb(x), ceil = std::ldexp(1.0f, floor) == x ? floor : floor + 1;
  const int top = std::ilogb(largest);
  const auto scale_for = [&](int exponent) {
    // Ratios beyond 2^13 leave e4m3's exponents for s4 and e2m1 values; below 2^-14 halves are no longer exact.
    if (m1) return std::ldexp(1.0f, std::clamp(exponent, std::max(-24, top - 12), std::min(15, top + 1)));
    return std::ldexp(largest, -std::max(0, std::min({exponent, 13, top + 14})));
  };
  if (rule.round != ScaleRound::kBest) {
    allowed[0] = scale_for(rule.round == ScaleRound::kFloor ? floor : ceil);
    return 1;
  }
  allowed[0] = scale_for(floor);
  allowed[1] = scale_for(ceil);
  return 2;
}

}  // namespace lowbit::offline
