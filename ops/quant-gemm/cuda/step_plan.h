// How the kernels for few tokens count input channels: steps of 128, which some share out.
#pragma once
#include <algorithm>
#include <cstdint>

#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {

constexpr int kStepChannels = 128;

struct StepPlan {
  GemmArgs args;                   // of one segment: without group sizes
  int body_steps = 0;              // the last may be half full
  int outlier_steps = 0;           // 0 or 1
  int unit_shift = 0;              // logarithm of a segment's steps
  int a_scales = 0, b_scales = 0;  // of a row
};

// Fills what every plan begins with. Not returned: as the base of a plan, constructed in place, GCC 12 let it overwrite
// the plan's first member, which lies in its padding.
inline void CountSteps(const GemmArgs& args, StepPlan* plan) {
  StepPlan& p = *plan;
  p.args = args;
  p.body_steps = (args.body() + kStepChannels - 1) / kStepChannels;
  p.outlier_steps = args.outliers > 0 ? 1 : 0;
  p.a_scales = args.a_scales();
  p.b_scales = args.b_scales();
  if (args.segments() == 1) {
    p.args.group_size = p.args.a_group_size = 0;
  } else {
    while (kStepChannels << p.unit_shift < args.segment()) ++p.unit_shift;
  }
}

// Gives `shares` takers equal shares of the bytes, rounded to steps: taker i has [begin[i], begin[i + 1]).
inline void ShareSteps(const StepPlan& plan, int shares, uint16_t* begin) {
  const int parts = plan.args.nibbles() ? 1 : 2;  // of a body step, 64 bytes of a row each; outliers have two
  const int all = plan.body_steps * parts + plan.outlier_steps * 2;
  for (int i = 0; i < shares; ++i) {
    begin[i] = static_cast<uint16_t>(std::min((all * i / shares + parts / 2) / parts, plan.body_steps));
  }
  begin[shares] = static_cast<uint16_t>(plan.body_steps + plan.outlier_steps);
}

}  // namespace lowbit::cuda
