#include "ops/norm-quantize/op.h"

#include "ops/rows/row_op.h"

namespace lowbit {
namespace {

enum : size_t { kX, kWeight, kBias, kReorderIndex, kResidual };
enum : size_t { kSum = 2, kY = 3 };

constexpr Port kInputPorts[] = {{"x", PortType::kT},
                                {"weight", PortType::kT},
                                {"bias", PortType::kT, true},
                                {"reorder_index", PortType::kInt32, true},
                                {"residual", PortType::kT, true}};
constexpr Port kOutputPorts[] = {
    {"q", PortType::kInt8}, {"scale", PortType::kFloat32}, {"sum", PortType::kT, true}, {"y", PortType::kT, true}};
constexpr AttributeSpec kAttributes[] = {{"norm", "string", nullptr},
                                         {"epsilon", "float", "1e-5"},
                                         kFormatAttribute,
                                         kGroupAttribute,
                                         kOutlierAttribute,
                                         kClipAttribute};

const RowKernelTable& Table() {
  static const RowKernelTable table({{"rms", RowSource::kRms}, {"layer", RowSource::kLayer}});
  return table;
}

class NormQuantize : public RowOp {
 public:
  NormQuantize() : RowOp("NormQuantize", Table()) {}

  static Status Create(const KernelInfo& info, const Overload& types, std::unique_ptr<Kernel>* kernel) {
    auto made = std::make_unique<NormQuantize>();
    LOWBIT_TRY(made->Prepare(info, types, kReorderIndex));
    std::string norm;
    const float epsilon = 1e-5f;
    LOWBIT_TRY(info.String("norm", &norm));
    LOWBIT_TRY(info.Float("epsilon", &made->epsilon_, &epsilon));
    LOWBIT_EXPECT(norm == "rms" || norm == "layer", made->where(), ": norm is '", norm,
                  "', expected one of rms, layer.");
    LOWBIT_EXPECT(made->epsilon_ >= 0, made->where(), ": epsilon is ", made->epsilon_, ", expected 0 or more.");
    made->source_ = norm == "rms" ? RowSource::kRms : RowSource::kLayer;
    LOWBIT_TRY(info.ConstantInput(kWeight, &made->weight_constant_, &made->weight_));
    LOWBIT_TRY(info.ConstantInput(kBias, &made->bias_constant_, &made->bias_));
    *kernel = std::move(made);
    return Status::Ok();
  }

  Status Compute(KernelContext& context) override {
    TensorView x, residual, weight = weight_, bias = bias_;
    LOWBIT_TRY(context.Input(kX, &x));
    if (!weight_constant_) LOWBIT_TRY(context.Input(kWeight, &weight));
    if (!bias_constant_) LOWBIT_TRY(context.Input(kBias, &bias));
    LOWBIT_TRY(context.Input(kResidual, &residual));
    LOWBIT_EXPECT(x.rank >= 1, where(), ": input x is a scalar, expected [...,K].");
    LOWBIT_EXPECT(weight.rank == 1 && weight.Count() == x.Cols(), where(), ": input weight has shape ",
                  weight.ShapeText(), ", expected [", x.Cols(), "], the last dimension of x ", x.ShapeText(), ".");
    LOWBIT_EXPECT(!bias.present || (bias.rank == 1 && bias.Count() == x.Cols()), where(), ": input bias has shape ",
                  bias.ShapeText(), ", expected [", x.Cols(), "].");
    LOWBIT_EXPECT(!residual.present || (residual.Count() == x.Count() && residual.Cols() == x.Cols()), where(),
                  ": input residual has shape ", residual.ShapeText(), ", expected that of x ", x.ShapeText(), ".");
    RowArgs args{};
    args.source = source_;
    args.x = x.data;
    args.x_stride = x.Cols();
    args.other = residual.data;
    args.other_stride = x.Cols();
    args.weight = weight.data;
    args.bias = bias.data;
    args.constant_weights = weight_constant_ && (bias_constant_ || !bias.present);
    args.epsilon = epsilon_;
    const size_t outputs = context.OutputCount();
    if (outputs > kSum) LOWBIT_TRY(context.Output(kSum, x.dims.data(), x.rank, &args.sum));
    if (outputs > kY) LOWBIT_TRY(context.Output(kY, x.dims.data(), x.rank, &args.y));
    return Run(context, x, x.Cols(), args);
  }

 private:
  RowSource source_ = RowSource::kRms;
  float epsilon_ = 0;
  // Constants are looked at once: asking ONNX Runtime for a shape costs as much as a short row.
  bool weight_constant_ = false, bias_constant_ = false;
  TensorView weight_, bias_;
};

Status InferShapes(ShapeInference& shapes) {
  Dims dims;
  if (!shapes.Input(kX, &dims)) return Status::Ok();
  LOWBIT_TRY(InferQuantized(shapes, dims));
  for (const size_t output : {kSum, kY}) {
    // Fails when the node has no such output; then there is nothing to infer.
    (void)shapes.SetOutput(output, dims, shapes.Type(kX)).ok();
  }
  return Status::Ok();
}

}  // namespace

const OpDefinition& NormQuantizeDefinition() {
  static const OpDefinition definition{"NormQuantize",       1,           kInputPorts,
                                       kOutputPorts,         kAttributes, kRowOverloads,
                                       NormQuantize::Create, InferShapes, [] { return Table().Rows(); }};
  return definition;
}

}  // namespace lowbit
