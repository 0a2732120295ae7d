#include "ops/act-quantize/op.h"

#include "ops/rows/row_op.h"

namespace lowbit {
namespace {

enum : size_t { kX };

constexpr Port kInputPorts[] = {{"x", PortType::kT}};
constexpr Port kOutputPorts[] = {{"q", PortType::kInt8}, {"scale", PortType::kFloat32}};
constexpr AttributeSpec kAttributes[] = {kActivationAttribute, kFormatAttribute, kGroupAttribute, kOutlierAttribute,
                                         kClipAttribute};

const RowKernelTable& Table() {
  static const RowKernelTable table({{"act", RowSource::kActivation}});
  return table;
}

class ActQuantize : public RowOp {
 public:
  ActQuantize() : RowOp("ActQuantize", Table()) {}

  static Status Create(const KernelInfo& info, const Overload& types, std::unique_ptr<Kernel>* kernel) {
    auto made = std::make_unique<ActQuantize>();
    LOWBIT_TRY(made->Prepare(info, types, kNone));
    LOWBIT_TRY(made->ReadActivation(info, &made->activation_));
    *kernel = std::move(made);
    return Status::Ok();
  }

  Status Compute(KernelContext& context) override {
    TensorView x;
    LOWBIT_TRY(context.Input(kX, &x));
    LOWBIT_EXPECT(x.rank >= 1, where(), ": input x is a scalar, expected [...,K].");
    RowArgs args{};
    args.source = RowSource::kActivation;
    args.activation = activation_;
    args.x = x.data;
    args.x_stride = x.Cols();
    return Run(context, x, x.Cols(), args);
  }

 private:
  Activation activation_ = Activation::kSilu;
};

}  // namespace

const OpDefinition& ActQuantizeDefinition() {
  static const OpDefinition definition{
      "ActQuantize", 1, kInputPorts, kOutputPorts, kAttributes, kRowOverloads, ActQuantize::Create, InferLikeInput, [] {
        return Table().Rows();
      }};
  return definition;
}

}  // namespace lowbit
