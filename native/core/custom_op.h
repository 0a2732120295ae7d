// OrtCustomOp's C ABI for an OpDefinition: the only place that knows it. Nothing is thrown across it.
#pragma once

#include "native/core/op_definition.h"

namespace lowbit {

/// One overload of an operator as ONNX Runtime sees it. Must outlive every session that uses it.
class CustomOp : public OrtCustomOp {
 public:
  CustomOp(const OpDefinition& definition, const Overload& overload, bool on_cuda);

  const OpDefinition& definition() const { return *definition_; }
  const Overload& overload() const { return overload_; }
  /// For the CUDA provider instead of the CPU's.
  bool on_cuda() const { return on_cuda_; }

 private:
  const OpDefinition* definition_;
  Overload overload_;
  bool on_cuda_;
};

}  // namespace lowbit
