// Host side of the bulk tensor copy: describes a row-major byte matrix to the copy engine.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace lowbit::cuda {

// A matrix of `rows` x `columns` bytes, rows `stride` bytes apart; a copy takes box_rows x box_columns of it, with
// zeros where the box leaves the matrix. The swizzle is box_columns wide: 32, 64 or 128 bytes.
struct ByteMatrix {
  const void* base = nullptr;
  uint64_t rows = 0, columns = 0, stride = 0;
  uint32_t box_rows = 0, box_columns = 0;
};

// The hardware's conditions on a matrix: base and stride multiples of 16 bytes.
inline bool CopyEngineTakes(const void* base, uint64_t stride) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride % 16 == 0 && stride > 0;
}

// cudaErrorNotSupported when the driver has no tensor maps; otherwise the driver's refusal as cudaErrorInvalidValue.
cudaError_t MakeTensorMap(const ByteMatrix& matrix, CUtensorMap* map);

}  // namespace lowbit::cuda
