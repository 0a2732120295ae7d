#include "native/core/custom_op.h"

#include <exception>

namespace lowbit {
namespace {

const CustomOp& Self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

/// Runs `work` and turns whatever it returns or throws into an OrtStatus.
template <class Work>
OrtStatus* Guarded(const Work& work) {
  try {
    return ToOrt(work());
  } catch (const std::bad_alloc&) {
    return Ort().CreateStatus(ORT_FAIL, "ort_lowbit: out of memory.");
  } catch (const std::exception& error) {
    return Ort().CreateStatus(ORT_RUNTIME_EXCEPTION, error.what());
  } catch (...) {
    return Ort().CreateStatus(ORT_RUNTIME_EXCEPTION, "internal: ort_lowbit: an unknown exception was thrown.");
  }
}

const char* GetName(const OrtCustomOp* op) { return Self(op).definition().name; }
const char* GetProvider(const OrtCustomOp* op) {
  return Self(op).on_cuda() ? "CUDAExecutionProvider" : "CPUExecutionProvider";
}
size_t InputCount(const OrtCustomOp* op) { return Self(op).definition().inputs.size(); }
size_t OutputCount(const OrtCustomOp* op) { return Self(op).definition().outputs.size(); }

ElementType InputType(const OrtCustomOp* op, size_t index) {
  return ResolveType(Self(op).definition().inputs[index].type, Self(op).overload());
}
ElementType OutputType(const OrtCustomOp* op, size_t index) {
  return ResolveType(Self(op).definition().outputs[index].type, Self(op).overload());
}

OrtCustomOpInputOutputCharacteristic Characteristic(const Port& port) {
  return port.optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}
OrtCustomOpInputOutputCharacteristic InputCharacteristic(const OrtCustomOp* op, size_t index) {
  return Characteristic(Self(op).definition().inputs[index]);
}
OrtCustomOpInputOutputCharacteristic OutputCharacteristic(const OrtCustomOp* op, size_t index) {
  return Characteristic(Self(op).definition().outputs[index]);
}

OrtMemType InputMemory(const OrtCustomOp*, size_t) { return OrtMemTypeDefault; }
int NoVariadic(const OrtCustomOp*) { return 0; }
int StartVersion(const OrtCustomOp* op) { return Self(op).definition().since; }
int EndVersion(const OrtCustomOp*) { return 1000; }  // ONNX Runtime's last domain version: no end

OrtStatus* CreateKernel(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
  return Guarded([&] {
    std::unique_ptr<Kernel> made;
    const CustomOp& self = Self(op);
    const KernelInfo facts(info, self.on_cuda());
    // Registered all the same: ONNX Runtime says nothing of use about a type that a provider does not have.
    LOWBIT_EXPECT(self.on_cuda() || self.overload().t != ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
                  facts.Where(self.definition().name),
                  ": computes in bfloat16 on the CPU, expected float32 or float16. Run it with the CUDA provider.");
    LOWBIT_TRY(self.definition().create(facts, self.overload(), &made));
    *kernel = made.release();
    return Status::Ok();
  });
}

OrtStatus* Compute(void* kernel, OrtKernelContext* context) {
  return Guarded([&] {
    KernelContext wrapped(context);
    return static_cast<Kernel*>(kernel)->Compute(wrapped);
  });
}

void DestroyKernel(void* kernel) { delete static_cast<Kernel*>(kernel); }

OrtStatus* InferShapes(const OrtCustomOp* op, OrtShapeInferContext* context) {
  return Guarded([&] {
    ShapeInference shapes(context);
    return Self(op).definition().infer_shapes(shapes);
  });
}

size_t NoPairs(int** inputs, int** outputs) {
  *inputs = *outputs = nullptr;
  return 0;
}
void ReleaseNothing(int*, int*) {}

}  // namespace

ElementType ResolveType(PortType type, const Overload& overload) {
  switch (type) {
    case PortType::kT:
      return overload.t;
    case PortType::kA:
      return overload.a;
    case PortType::kB:
      return overload.b;
    case PortType::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case PortType::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case PortType::kInt8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case PortType::kUint8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case PortType::kInt32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

CustomOp::CustomOp(const OpDefinition& definition, const Overload& overload, bool on_cuda)
    : OrtCustomOp{}, definition_(&definition), overload_(overload), on_cuda_(on_cuda) {
  version = kCustomOpVersion;
  OrtCustomOp::GetName = lowbit::GetName;
  GetExecutionProviderType = GetProvider;
  GetInputType = InputType;
  GetInputTypeCount = InputCount;
  GetOutputType = OutputType;
  GetOutputTypeCount = OutputCount;
  KernelDestroy = DestroyKernel;
  GetInputCharacteristic = InputCharacteristic;
  GetOutputCharacteristic = OutputCharacteristic;
  GetInputMemoryType = InputMemory;
  GetVariadicInputMinArity = GetVariadicInputHomogeneity = NoVariadic;
  GetVariadicOutputMinArity = GetVariadicOutputHomogeneity = NoVariadic;
  CreateKernelV2 = lowbit::CreateKernel;
  KernelComputeV2 = Compute;
  InferOutputShapeFn = InferShapes;
  GetStartVersion = StartVersion;
  GetEndVersion = EndVersion;
  GetMayInplace = GetAliasMap = NoPairs;
  ReleaseMayInplace = ReleaseAliasMap = ReleaseNothing;
}

}  // namespace lowbit
