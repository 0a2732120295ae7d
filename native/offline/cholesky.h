// Cholesky factor and triangular inverse of a symmetric positive definite matrix, in place.
#pragma once

#include <cstdint>

namespace lowbit::offline {

// h[n, n] row-major, lower triangle read: overwritten by L with L·Lᵀ = h (the strict upper triangle is left as it was).
// Returns -1, or the index of the first pivot that is not positive and finite (h is then spoilt).
int64_t CholeskyInPlace(float* h, int64_t n, int threads);

// l[n, n] row-major, lower triangular with a positive diagonal: its lower triangle is overwritten by L⁻¹.
void InvertLowerInPlace(float* l, int64_t n, int threads);

}  // namespace lowbit::offline
