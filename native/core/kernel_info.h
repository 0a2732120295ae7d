// What a kernel may ask when it is created: its node's name, attributes and constant inputs.
#pragma once

#include <cstdint>
#include <string>

#include "native/core/ort_api.h"
#include "native/core/tensor_view.h"

namespace lowbit {

class KernelInfo {
 public:
  KernelInfo(const OrtKernelInfo* info, bool on_cuda) : info_(info), on_cuda_(on_cuda) {}

  /// Whether the node runs on the CUDA provider: tensors, constants too, are then on the device.
  bool on_cuda() const { return on_cuda_; }

  /// "<op type> <node name>", the beginning of every message about this node.
  std::string Where(const char* op_type) const;

  /// Reads an attribute; an absent one gives `fallback`, and without a fallback an error that names it.
  Status Int(const char* name, int64_t* value, const int64_t* fallback = nullptr) const;
  Status Float(const char* name, float* value, const float* fallback = nullptr) const;
  Status String(const char* name, std::string* value, const char* fallback = nullptr) const;

  /// The value of a constant input; `*constant` is false (and the view absent) for one that changes between runs.
  /// The view stays valid as long as the kernel.
  Status ConstantInput(size_t index, bool* constant, TensorView* view) const;

 private:
  const OrtKernelInfo* info_;
  bool on_cuda_;
};

}  // namespace lowbit
