// A tensor as kernels see it: element type, dimensions, data; no ownership.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "native/core/ort_api.h"

namespace lowbit {

using ElementType = ONNXTensorElementDataType;

/// "float32", "int8", … as ONNX Runtime's language bindings spell them; "?" for types no operator here takes.
const char* TypeName(ElementType type);

struct TensorView {
  static constexpr size_t kMaxRank = 8;

  ElementType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  std::array<int64_t, kMaxRank> dims{};
  void* data = nullptr;
  bool present = false;  // false for an optional input left out: skipped, or given as an empty vector (shape [0])

  /// Fills the view from an OrtValue or, for a skipped input, nullptr.
  static Status Of(const OrtValue* value, TensorView* view);

  template <class T>
  const T* As() const {
    return static_cast<const T*>(data);
  }
  /// The last dimension: channels of a row. 0 for a scalar.
  int64_t Cols() const { return rank == 0 ? 0 : dims[rank - 1]; }
  /// The product of all dimensions but the last one.
  int64_t Rows() const;
  int64_t Count() const;
  /// "[2,3]"
  std::string ShapeText() const;
};

}  // namespace lowbit
