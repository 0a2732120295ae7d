// Output shapes while a model loads. Dimensions may be known, symbolic or unknown; unknown ones leave an output without
// a shape.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "native/core/ort_api.h"
#include "native/core/tensor_view.h"

namespace lowbit {

struct Dim {
  int64_t value = -1;  // -1: not a number
  std::string symbol;  // empty: no name either
  bool known() const { return value >= 0 || !symbol.empty(); }
};
using Dims = std::vector<Dim>;

class ShapeInference {
 public:
  explicit ShapeInference(OrtShapeInferContext* context) : context_(context) {}

  /// False when the input is absent or its rank is not known.
  bool Input(size_t index, Dims* dims) const;
  /// An integer attribute; `fallback` when it is absent.
  int64_t Int(const char* name, int64_t fallback) const;
  /// The element type of an input, undefined when the input is absent. Output types must be derived from it: ONNX
  /// Runtime calls the first overload's function whichever overload a node will get.
  ElementType Type(size_t index) const;
  /// Sets an output's type, and its shape if every dimension is known.
  Status SetOutput(size_t index, const Dims& dims, ElementType type) const;

 private:
  OrtShapeInferContext* context_;
};

}  // namespace lowbit
