// Rounding of one input channel for kLanes output rows at once, as RoundToGrid does it one by one.
#pragma once

#include <cstdint>

#include "native/offline/grid.h"

namespace lowbit::offline {

constexpr int64_t kLanes = 48;  // three AVX-512 registers; one tile of SubtractTransposedProduct

// For each lane: q = the grid's value nearest to value · inverse, code = its code; error = (value − q·scale) · pivot;
// loss += error²; value = q·scale. All arrays have kLanes elements. Values must be finite.
void RoundLanes(Grid grid, float* value, const float* scale, const float* inverse, float pivot, float* error,
                float* loss, int8_t* code);

}  // namespace lowbit::offline
