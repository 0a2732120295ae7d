#include "native/core/kernel_context.h"

namespace lowbit {

Status KernelContext::Input(size_t index, TensorView* view) const {
  *view = TensorView{};
  size_t count = 0;
  LOWBIT_ORT(Ort().KernelContext_GetInputCount(context_, &count));
  if (index >= count) return Status::Ok();
  const OrtValue* value = nullptr;
  LOWBIT_ORT(Ort().KernelContext_GetInput(context_, index, &value));
  return TensorView::Of(value, view);
}

Status KernelContext::Output(size_t index, const int64_t* dims, size_t rank, void** data) const {
  *data = nullptr;
  OrtValue* value = nullptr;
  LOWBIT_ORT(Ort().KernelContext_GetOutput(context_, index, dims, rank, &value));
  if (value == nullptr) return Status::Ok();
  LOWBIT_ORT(Ort().GetTensorMutableData(value, data));
  return Status::Ok();
}

Status KernelContext::Allocate(size_t bytes, Temporary* memory) const {
  OrtMemoryInfo* info = nullptr;
  LOWBIT_ORT(Ort().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &info));
  return Allocate(info, bytes, memory);
}

Status KernelContext::AllocateOnCuda(int device, size_t bytes, Temporary* memory) const {
  OrtMemoryInfo* info = nullptr;
  LOWBIT_ORT(Ort().CreateMemoryInfo("Cuda", OrtDeviceAllocator, device, OrtMemTypeDefault, &info));
  return Allocate(info, bytes, memory);
}

Status KernelContext::Allocate(OrtMemoryInfo* info, size_t bytes, Temporary* memory) const {
  Status found = FromOrt(Ort().KernelContext_GetAllocator(context_, info, &memory->allocator_));
  Ort().ReleaseMemoryInfo(info);
  LOWBIT_TRY(std::move(found));
  memory->data_ = memory->allocator_->Alloc(memory->allocator_, bytes);
  LOWBIT_EXPECT(memory->data_ != nullptr, "out of memory for ", bytes, " bytes.");
  return Status::Ok();
}

Status KernelContext::CudaStream(void** stream) const {
  return FromOrt(Ort().KernelContext_GetGPUComputeStream(context_, stream));
}

size_t KernelContext::OutputCount() const {
  size_t count = 0;
  return FromOrt(Ort().KernelContext_GetOutputCount(context_, &count)).ok() ? count : 0;
}

}  // namespace lowbit
