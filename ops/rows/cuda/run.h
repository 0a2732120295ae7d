// The row operators on a GPU, for the operators' ONNX Runtime side. Present in libraries built with LOWBIT_CUDA.
#pragma once

#include <string>

#include "native/core/tensor_view.h"
#include "ops/rows/rows.h"

namespace lowbit {

/// Enqueues all rows on `stream` and returns; pointers in `args` are on the device.
Status RunRowsOnCuda(const std::string& where, const RowArgs& args, ElementType type, int64_t rows, void* stream);

/// Copies `count` values from the device, for checks when a session is made. Waits for the copy.
Status CopyFromCuda(const std::string& where, const void* from, int64_t count, int32_t* to);

}  // namespace lowbit
