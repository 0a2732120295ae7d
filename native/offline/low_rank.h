// The best approximation of a matrix by one of low rank: a truncated singular value decomposition by randomized
// subspace iteration (Halko, Martinsson, Tropp, arXiv 0909.4061). LoRC (ZeroQuant-V2, arXiv 2303.08302) applies it to
// what rounding takes from a weight.
#pragma once

#include <atomic>
#include <cstdint>

namespace lowbit::offline {

struct LowRankSpec {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t rank = 0;  // 1 … min(rows, cols)
  int threads = 1;
};

// With matrix = U·S·Vᵀ, writes the first `rank` columns of U·√S to up [rows, rank] and rows of √S·Vᵀ to down
// [rank, cols], both row major; matrix [rows, cols] is finite. Beside it, some 2·(rows + cols)·(rank + 64) floats and
// a copy of 64 rows per thread are needed. The same numbers come out for any number of threads, and at every call.
// Returns false when cancelled.
bool LowRank(const LowRankSpec& spec, const float* matrix, float* up, float* down, const std::atomic<bool>* cancel);

}  // namespace lowbit::offline
