// The one dense kernel the offline algorithms need: C -= Aᵀ·B on row-major float32 matrices.
#pragma once

#include <cstdint>

namespace lowbit::offline {

// c[m, n] -= Σ_k a[k, m] · b[k, n] for m < rows, n < cols, k < depth. Leading dimensions in elements. c must not
// overlap a or b. Every element is summed in ascending k, whatever the tile, so results do not depend on how the work
// is cut.
void SubtractTransposedProduct(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                               int64_t rows, int64_t cols, int64_t depth);

}  // namespace lowbit::offline
