#include "ops/common/cuda/tensor_map.h"

namespace lowbit::cuda {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function, asked for at run time: this library must load where there is no driver.
EncodeTiled Encoder() {
  static const EncodeTiled encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t e =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(function) : nullptr;
  }();
  return encode;
}

}  // namespace

cudaError_t MakeTensorMap(const ByteMatrix& matrix, CUtensorMap* map) {
  const EncodeTiled encode = Encoder();
  if (!encode) return cudaErrorNotSupported;
  const cuuint64_t sizes[2] = {matrix.columns, matrix.rows};
  const cuuint64_t strides[1] = {matrix.stride};
  const cuuint32_t box[2] = {matrix.box_columns, matrix.box_rows};
  const cuuint32_t steps[2] = {1, 1};
  const auto swizzle = matrix.box_columns == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                       : matrix.box_columns == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                  : CU_TENSOR_MAP_SWIZZLE_32B;
  const CUresult r = encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(matrix.base), sizes, strides, box,
                            steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace lowbit::cuda
