#include "native/core/shape_inference.h"

#include <algorithm>

namespace lowbit {

namespace {

/// The context's own record of an input, nullptr when there is none.
const OrtTensorTypeAndShapeInfo* InfoOf(const OrtShapeInferContext* context, size_t index) {
  size_t count = 0;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (!FromOrt(Ort().ShapeInferContext_GetInputCount(context, &count)).ok() || index >= count) return nullptr;
  return FromOrt(Ort().ShapeInferContext_GetInputTypeShape(context, index, &info)).ok() ? info : nullptr;
}

}  // namespace

ElementType ShapeInference::Type(size_t index) const {
  const OrtTensorTypeAndShapeInfo* info = InfoOf(context_, index);
  ElementType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  const bool known = info != nullptr && FromOrt(Ort().GetTensorElementType(info, &type)).ok();
  return known ? type : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

bool ShapeInference::Input(size_t index, Dims* dims) const {
  const OrtTensorTypeAndShapeInfo* info = InfoOf(context_, index);
  if (info == nullptr) return false;
  size_t rank = 0;
  if (!FromOrt(Ort().GetDimensionsCount(info, &rank)).ok() || rank == 0) return false;
  std::vector<int64_t> values(rank);
  std::vector<const char*> symbols(rank);
  if (!FromOrt(Ort().GetDimensions(info, values.data(), rank)).ok()) return false;
  if (!FromOrt(Ort().GetSymbolicDimensions(info, symbols.data(), rank)).ok()) return false;
  dims->resize(rank);
  for (size_t i = 0; i < rank; ++i) (*dims)[i] = Dim{values[i], symbols[i] ? symbols[i] : ""};
  return true;
}

int64_t ShapeInference::Int(const char* name, int64_t fallback) const {
  const OrtOpAttr* attribute = nullptr;
  int64_t value = 0;
  size_t bytes = 0;
  if (!FromOrt(Ort().ShapeInferContext_GetAttribute(context_, name, &attribute)).ok() || attribute == nullptr) {
    return fallback;
  }
  const Status read = FromOrt(Ort().ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof value, &bytes));
  return read.ok() ? value : fallback;
}

Status ShapeInference::SetOutput(size_t index, const Dims& dims, ElementType type) const {
  if (!std::all_of(dims.begin(), dims.end(), [](const Dim& dim) { return dim.known(); })) return Status::Ok();
  std::vector<int64_t> values;
  std::vector<const char*> symbols;
  for (const Dim& dim : dims) {
    values.push_back(dim.value);
    symbols.push_back(dim.symbol.c_str());
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  LOWBIT_ORT(Ort().CreateTensorTypeAndShapeInfo(&info));
  OrtStatus* failed = Ort().SetTensorElementType(info, type);
  if (failed == nullptr) failed = Ort().SetDimensions(info, values.data(), values.size());
  // Names belong to the dimensions just set; without them ONNX Runtime refuses the shape.
  if (failed == nullptr) failed = Ort().SetSymbolicDimensions(info, symbols.data(), symbols.size());
  if (failed == nullptr) failed = Ort().ShapeInferContext_SetOutputTypeShape(context_, index, info);
  Ort().ReleaseTensorTypeAndShapeInfo(info);
  return FromOrt(failed);
}

}  // namespace lowbit
