#include "ops/quantize/op.h"

namespace lowbit {
namespace {

enum : size_t { kX, kReorderIndex };

constexpr Port kInputPorts[] = {{"x", PortType::kT}, {"reorder_index", PortType::kInt32, true}};
constexpr Port kOutputPorts[] = {{"q", PortType::kInt8}, {"scale", PortType::kFloat32}};
constexpr AttributeSpec kAttributes[] = {kFormatAttribute, kGroupAttribute, kOutlierAttribute, kClipAttribute};

class Quantize : public RowOp {
 public:
  Quantize() : RowOp("Quantize", QuantizeKernels()) {}

  static Status Create(const KernelInfo& info, const Overload& types, std::unique_ptr<Kernel>* kernel) {
    auto made = std::make_unique<Quantize>();
    LOWBIT_TRY(made->Prepare(info, types, kReorderIndex));
    *kernel = std::move(made);
    return Status::Ok();
  }

  Status Compute(KernelContext& context) override {
    TensorView x;
    LOWBIT_TRY(context.Input(kX, &x));
    LOWBIT_EXPECT(x.rank >= 1, where(), ": input x is a scalar, expected [...,K].");
    RowArgs args{};
    args.source = RowSource::kCopy;
    args.x = x.data;
    args.x_stride = x.Cols();
    return Run(context, x, x.Cols(), args);
  }
};

}  // namespace

const RowKernelTable& QuantizeKernels() {
  static const RowKernelTable table({{"quantize", RowSource::kCopy}});
  return table;
}

const OpDefinition& QuantizeDefinition() {
  static const OpDefinition definition{
      "Quantize", 1, kInputPorts, kOutputPorts, kAttributes, kRowOverloads, Quantize::Create, InferLikeInput, [] {
        return QuantizeKernels().Rows();
      }};
  return definition;
}

}  // namespace lowbit
