#include "ops/gated-act-quantize/op.h"

#include "ops/rows/row_op.h"

namespace lowbit {
namespace {

enum : size_t { kGate, kUp };

constexpr Port kInputPorts[] = {{"gate", PortType::kT}, {"up", PortType::kT, true}};
constexpr Port kOutputPorts[] = {{"q", PortType::kInt8}, {"scale", PortType::kFloat32}};
constexpr AttributeSpec kAttributes[] = {kActivationAttribute, kFormatAttribute, kGroupAttribute, kOutlierAttribute,
                                         kClipAttribute};

const RowKernelTable& Table() {
  static const RowKernelTable table({{"gated", RowSource::kGated}});
  return table;
}

class GatedActQuantize : public RowOp {
 public:
  GatedActQuantize() : RowOp("GatedActQuantize", Table()) {}

  static Status Create(const KernelInfo& info, const Overload& types, std::unique_ptr<Kernel>* kernel) {
    auto made = std::make_unique<GatedActQuantize>();
    LOWBIT_TRY(made->Prepare(info, types, kNone));
    LOWBIT_TRY(made->ReadActivation(info, &made->activation_));
    made->element_bytes_ = types.t == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : 2;
    *kernel = std::move(made);
    return Status::Ok();
  }

  Status Compute(KernelContext& context) override {
    TensorView gate, up;
    LOWBIT_TRY(context.Input(kGate, &gate));
    LOWBIT_TRY(context.Input(kUp, &up));
    LOWBIT_EXPECT(gate.rank >= 1, where(), ": input gate is a scalar, expected [...,I] or [...,2I].");
    LOWBIT_EXPECT(!up.present || (up.Count() == gate.Count() && up.Cols() == gate.Cols()), where(),
                  ": input up has shape ", up.ShapeText(), ", expected that of gate ", gate.ShapeText(), ".");
    LOWBIT_EXPECT(up.present || gate.Cols() % 2 == 0, where(), ": input gate has shape ", gate.ShapeText(),
                  ", expected an even last dimension [gate | up] as there is no input up.");
    const int64_t channels = up.present ? gate.Cols() : gate.Cols() / 2;
    RowArgs args{};
    args.source = RowSource::kGated;
    args.activation = activation_;
    args.x = gate.data;
    args.x_stride = gate.Cols();
    args.other = up.present ? up.data : gate.As<char>() + channels * element_bytes_;
    args.other_stride = gate.Cols();
    return Run(context, gate, channels, args);
  }

 private:
  Activation activation_ = Activation::kSilu;
  int64_t element_bytes_ = 0;
};

Status InferShapes(ShapeInference& shapes) {
  Dims dims, up;
  if (!shapes.Input(kGate, &dims)) return Status::Ok();
  if (!shapes.Input(kUp, &up)) {
    // Without `up` the last dimension holds both halves; a symbolic one has no name for its half.
    dims.back() = dims.back().value >= 0 ? Dim{dims.back().value / 2, ""} : Dim{};
  }
  return InferQuantized(shapes, dims);
}

}  // namespace

const OpDefinition& GatedActQuantizeDefinition() {
  static const OpDefinition definition{"GatedActQuantize",
                                       1,
                                       kInputPorts,
                                       kOutputPorts,
                                       kAttributes,
                                       kRowOverloads,
                                       GatedActQuantize::Create,
                                       InferShapes,
                                       [] { return Table().Rows(); }};
  return definition;
}

}  // namespace lowbit
