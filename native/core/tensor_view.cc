#include "native/core/tensor_view.h"

namespace lowbit {

const char* TypeName(ElementType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return "bfloat16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return "int8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return "int64";
    default:
      return "?";
  }
}

Status TensorView::Of(const OrtValue* value, TensorView* view) {
  *view = TensorView{};
  if (value == nullptr) return Status::Ok();
  OrtTensorTypeAndShapeInfo* info = nullptr;
  LOWBIT_ORT(Ort().GetTensorTypeAndShape(value, &info));
  OrtStatus* failed = Ort().GetDimensionsCount(info, &view->rank);
  const bool fits = failed == nullptr && view->rank <= kMaxRank;
  if (fits) failed = Ort().GetDimensions(info, view->dims.data(), view->rank);
  if (failed == nullptr) failed = Ort().GetTensorElementType(info, &view->type);
  Ort().ReleaseTensorTypeAndShapeInfo(info);
  LOWBIT_ORT(failed);
  LOWBIT_EXPECT(fits, "a tensor has rank ", view->rank, ", expected at most ", kMaxRank, ".");
  LOWBIT_ORT(Ort().GetTensorMutableData(const_cast<OrtValue*>(value), &view->data));
  view->present = !(view->rank == 1 && view->dims[0] == 0);
  return Status::Ok();
}

int64_t TensorView::Rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < rank; ++i) rows *= dims[i];
  return rows;
}

int64_t TensorView::Count() const { return rank == 0 ? 1 : Rows() * dims[rank - 1]; }

std::string TensorView::ShapeText() const {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) {
    if (i > 0) text += ',';
    text += std::to_string(dims[i]);
  }
  text += ']';
  return text;
}

}  // namespace lowbit
