// Eigenvalues and eigenvectors of a small symmetric matrix.
#pragma once

#include <cstdint>
#include <vector>

namespace lowbit::offline {

// a[n, n] is symmetric. Returns its eigenvalues, the largest first; column i of vectors[n, n] is the eigenvector of
// value i. Cyclic Jacobi rotations until off-diagonal elements are rounding errors.
std::vector<double> SymmetricEigen(std::vector<double> a, int64_t n, std::vector<double>* vectors);

}  // namespace lowbit::offline
