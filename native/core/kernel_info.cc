#include "native/core/kernel_info.h"

namespace lowbit {

std::string KernelInfo::Where(const char* op_type) const {
  std::string name;
  size_t bytes = 0;
  if (FromOrt(Ort().KernelInfo_GetNodeName(info_, nullptr, &bytes)).ok() && bytes > 1) {
    name.resize(bytes);
    if (FromOrt(Ort().KernelInfo_GetNodeName(info_, name.data(), &bytes)).ok()) name.resize(bytes - 1);
  }
  return std::string(op_type) + (name.empty() ? "" : " " + name);
}

Status KernelInfo::Int(const char* name, int64_t* value, const int64_t* fallback) const {
  const Status read = FromOrt(Ort().KernelInfoGetAttribute_int64(info_, name, value));
  if (read.ok()) return Status::Ok();
  LOWBIT_EXPECT(fallback != nullptr, "attribute ", name, " is missing, expected an integer.");
  *value = *fallback;
  return Status::Ok();
}

Status KernelInfo::Float(const char* name, float* value, const float* fallback) const {
  const Status read = FromOrt(Ort().KernelInfoGetAttribute_float(info_, name, value));
  if (read.ok()) return Status::Ok();
  LOWBIT_EXPECT(fallback != nullptr, "attribute ", name, " is missing, expected a float.");
  *value = *fallback;
  return Status::Ok();
}

Status KernelInfo::String(const char* name, std::string* value, const char* fallback) const {
  size_t bytes = 0;
  if (FromOrt(Ort().KernelInfoGetAttribute_string(info_, name, nullptr, &bytes)).ok()) {
    value->resize(bytes);
    LOWBIT_ORT(Ort().KernelInfoGetAttribute_string(info_, name, value->data(), &bytes));
    value->resize(bytes - 1);  // bytes counts the terminating zero
    return Status::Ok();
  }
  LOWBIT_EXPECT(fallback != nullptr, "attribute ", name, " is missing, expected a string.");
  *value = fallback;
  return Status::Ok();
}

Status KernelInfo::ConstantInput(size_t index, bool* constant, TensorView* view) const {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  *view = TensorView{};
  LOWBIT_ORT(Ort().KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  *constant = is_constant != 0;
  return *constant ? TensorView::Of(value, view) : Status::Ok();
}

}  // namespace lowbit
