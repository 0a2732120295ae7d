// An operator as data: what ONNX Runtime is told about it, what OrtLowbitDescribe prints, and how its kernel is made.
#pragma once

#include <memory>
#include <span>

#include "native/core/kernel_choice.h"
#include "native/core/kernel_context.h"
#include "native/core/kernel_info.h"
#include "native/core/shape_inference.h"

namespace lowbit {

/// The state of one node of a session. Compute may run on several threads at once.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual Status Compute(KernelContext& context) = 0;
};

/// The element type of an input or output. T (the graph's float type), A and B differ between an operator's overloads.
enum class PortType { kT, kA, kB, kFloat32, kFloat16, kInt8, kUint8, kInt32 };

struct Port {
  const char* name;
  PortType type;
  bool optional = false;
};

/// One combination of the variable types. Operators without A or B leave them out.
struct Overload {
  ElementType t;
  ElementType a = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  ElementType b = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
};

struct AttributeSpec {
  const char* name;
  const char* type;           // "int", "float" or "string"
  const char* default_value;  // as text; nullptr: required
};

struct OpDefinition {
  const char* name;
  int since;
  std::span<const Port> inputs;
  std::span<const Port> outputs;
  std::span<const AttributeSpec> attributes;
  std::span<const Overload> overloads;
  Status (*create)(const KernelInfo& info, const Overload& types, std::unique_ptr<Kernel>* kernel);
  Status (*infer_shapes)(ShapeInference& shapes);
  std::vector<KernelRow> (*kernels)();
};

/// The element type of a port in an overload.
ElementType ResolveType(PortType type, const Overload& overload);

}  // namespace lowbit
