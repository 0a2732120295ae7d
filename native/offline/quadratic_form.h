// What a change of weights costs: the sum of squares of what it does to the layer's outputs.
#pragma once

#include <cstdint>

namespace lowbit::offline {

// tr(D·H·Dᵀ) for D [rows, cols] and a symmetric H [cols, cols], row major. Products are summed in float32 over at most
// a stripe of channels, the rest in double.
double QuadraticForm(const float* d, const float* h, int64_t rows, int64_t cols, int threads);

}  // namespace lowbit::offline
