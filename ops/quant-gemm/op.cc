#include "ops/quant-gemm/op.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "native/core/float16.h"
#include "ops/quant-gemm/attributes.h"
#include "ops/quant-gemm/cpu/lorc.h"
#include "ops/quant-gemm/cpu/outlier_columns.h"
#include "ops/quant-gemm/cpu/run.h"
#include "ops/quant-gemm/cpu/tables.h"
#include "ops/quantize/op.h"
#if LOWBIT_CUDA
#include "ops/common/cuda/graph_type.h"
#include "ops/quant-gemm/cuda/run.h"
#endif

namespace lowbit {
namespace {

using gemm::Codes;
using gemm::GemmKernel;

// Input positions.
enum : size_t {
  kA,
  kAScale,
  kB,
  kBScale,
  kBOutlier,
  kBOutlierScale,
  kBias,
  kResidual,
  kLorcDown,
  kLorcDownScale,
  kLorcUp,
  kLorcUpScale,
  kInputs
};

constexpr Port kInputPorts[] = {
    {"a", PortType::kA},
    {"a_scale", PortType::kFloat32, true},
    {"b", PortType::kB},
    {"b_scale", PortType::kFloat16},
    {"b_outlier", PortType::kInt8, true},
    {"b_outlier_scale", PortType::kFloat16, true},
    {"bias", PortType::kT},
    {"residual", PortType::kT, true},
    {"lorc_down", PortType::kInt8, true},
    {"lorc_down_scale", PortType::kFloat16, true},
    {"lorc_up", PortType::kInt8, true},
    {"lorc_up_scale", PortType::kFloat16, true},
};
constexpr Port kOutputPorts[] = {{"y", PortType::kT}};

constexpr AttributeSpec kAttributes[] = {
    {"K", "int", nullptr},
    {"N", "int", nullptr},
    {"weight_format", "string", nullptr},
    {"group_size", "int", "0"},
    {"scale_ratios", "string", "any"},
    {"a_format", "string", nullptr},
    {"a_group_size", "int", "0"},
    {"outlier_channels", "int", "0"},
    {"threshold", "float", "0"},
};

constexpr ElementType kF32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ElementType kF16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
constexpr ElementType kBF16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
constexpr ElementType kI8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr ElementType kU8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
constexpr Overload kOverloads[] = {
    {kF32, kI8, kU8},  {kF32, kI8, kI8},  {kF32, kF32, kU8},   {kF32, kF32, kI8},
    {kF16, kI8, kU8},  {kF16, kI8, kI8},  {kF16, kF16, kU8},   {kF16, kF16, kI8},
    {kBF16, kI8, kU8}, {kBF16, kI8, kI8}, {kBF16, kBF16, kU8}, {kBF16, kBF16, kI8},
};

std::vector<KernelRow> KernelRows() {
  std::vector<KernelRow> rows;
  for (const GemmKernel& kernel : gemm::Kernels()) rows.push_back({kernel.name, kernel.needs});
  return rows;
}

class QuantGemm : public Kernel {
 public:
  static Status Create(const KernelInfo& info, const Overload& types, std::unique_ptr<Kernel>* kernel) {
    auto made = std::make_unique<QuantGemm>();
    made->where_ = info.Where("QuantGemm");
    made->type_ = types.t;
    made->on_cuda_ = info.on_cuda();
    LOWBIT_TRY(ReadQuantGemmAttributes(info, made->where_, types, &made->attributes_));
    for (size_t i = 0; i < kInputs; ++i) {
      LOWBIT_TRY(info.ConstantInput(i, &made->constant_[i], &made->constants_[i]));
      if (made->constant_[i]) LOWBIT_TRY(made->CheckWeights(i, made->constants_[i]));
    }
    *kernel = std::move(made);
    return Status::Ok();
  }

  Status Compute(KernelContext& context) override {
    TensorView inputs[kInputs];
    for (size_t i = 0; i < kInputs; ++i) {
      if (constant_[i]) {
        inputs[i] = constants_[i];
      } else {
        LOWBIT_TRY(context.Input(i, &inputs[i]));
        LOWBIT_TRY(CheckWeights(i, inputs[i]));
      }
    }
    LOWBIT_TRY(CheckActivations(inputs[kA], inputs[kAScale], inputs[kResidual]));
    LOWBIT_TRY(CheckLorc(inputs));
    TensorView y = inputs[kA];
    y.dims[y.rank - 1] = attributes_.n;
    LOWBIT_TRY(context.Output(0, y.dims.data(), y.rank, &y.data));
    const int64_t rows = inputs[kA].Rows();
    if (rows == 0 || y.data == nullptr) return Status::Ok();
#if LOWBIT_CUDA
    if (on_cuda_) return RunOnCuda(inputs, y.data, rows, context);
#endif
    gemm::Args args = MakeArgs(inputs, y.data);
    if (dynamic()) LOWBIT_TRY(QuantizeActivations(&args, rows, context));
    if (inputs[kLorcDown].present) {
      const gemm::Lorc lorc = MakeLorc(inputs);
      const GemmKernel& down = Choose(&down_choices_, DownShape(lorc, args, rows), CodesOfA(), Codes::kS8);
      LOWBIT_TRY(RunLorc(lorc, down, args, rows, context));
      args.residual = y.data;
    }
    const int64_t group = attributes_.product_group();
    const gemm::Shape shape{rows, attributes_.n, group, attributes_.body() / group};
    return RunGemm(Choose(&choices_, shape, CodesOfA(), attributes_.b), args, rows, context);
  }

 private:
  bool weight_only() const { return attributes_.a == Codes::kFloat; }
  bool dynamic() const { return attributes_.a_floats && !weight_only(); }

  /// Inputs whose shape follows from the attributes alone. Constant ones are checked once, when the session is made.
  Status CheckWeights(size_t index, const TensorView& view) const {
    const QuantGemmAttributes& at = attributes_;
    const bool nibbles = gemm::IsNibble(at.b), outliers = at.outliers > 0;
    const int64_t b_cols = nibbles ? (at.body() + 1) / 2 : at.body();
    switch (index) {
      case kB:
        return ExpectShape("b", view, {at.n, b_cols});
      case kBScale:
        LOWBIT_TRY(ExpectShape("b_scale", view, {at.n, at.weight_groups()}));
        return at.powers_of_two && !on_cuda_ ? CheckScaleRatios(view) : Status::Ok();
      case kBOutlier:
        return outliers ? ExpectShape("b_outlier", view, {at.n, at.outliers}) : Status::Ok();
      case kBOutlierScale:
        return outliers ? ExpectShape("b_outlier_scale", view, {at.n}) : Status::Ok();
      case kBias:
        return view.present ? ExpectShape("bias", view, {at.n}) : Status::Ok();
      default:
        return Status::Ok();
    }
  }

  /// What scale_ratios "powers_of_two" promises: a row's largest scale is 2^k times each, k = 0 ... 13.
  Status CheckScaleRatios(const TensorView& view) const {
    const int64_t groups = attributes_.weight_groups();
    for (int64_t n = 0; n < attributes_.n; ++n) {
      const uint16_t* row = view.As<uint16_t>() + n * groups;
      const float largest = HalfToFloat(*std::max_element(row, row + groups));
      for (int64_t g = 0; g < groups; ++g) {
        const float ratio = largest / HalfToFloat(row[g]);
        const int k = std::isfinite(ratio) && ratio > 0.0f ? std::ilogb(ratio) : -1;
        LOWBIT_EXPECT(k >= 0 && k <= 13 && std::ldexp(1.0f, k) == ratio, where_, ": input b_scale has ",
                      HalfToFloat(row[g]), " in row ", n, " group ", g, " beside ", largest,
                      ", expected the row's largest times 2^-k with k = 0 ... 13 (scale_ratios \"powers_of_two\").");
      }
    }
    return Status::Ok();
  }

  Status ExpectShape(const char* name, const TensorView& view, std::initializer_list<int64_t> dims) const {
    LOWBIT_EXPECT(view.present, where_, ": input ", name, " is missing, expected a tensor.");
    const bool equal = view.rank == dims.size() && std::equal(dims.begin(), dims.end(), view.dims.begin());
    if (equal) return Status::Ok();
    TensorView wanted;
    wanted.rank = dims.size();
    std::copy(dims.begin(), dims.end(), wanted.dims.begin());
    return Status::Error(ORT_INVALID_ARGUMENT, where_, ": input ", name, " has shape ", view.ShapeText(), ", expected ",
                         wanted.ShapeText(), " (K=", attributes_.k, ", N=", attributes_.n,
                         ", group_size=", attributes_.group, ", outlier_channels=", attributes_.outliers, ").");
  }

  Status CheckActivations(const TensorView& a, const TensorView& a_scale, const TensorView& residual) const {
    const QuantGemmAttributes& at = attributes_;
    LOWBIT_EXPECT(a.rank >= 1 && a.Cols() == at.k, where_, ": input a has shape ", a.ShapeText(), ", expected [...,",
                  at.k, "].");
    if (!at.a_floats) {
      LOWBIT_EXPECT(a_scale.present && a_scale.rank == a.rank && a_scale.Cols() == at.scales_per_row() &&
                        a_scale.Rows() == a.Rows(),
                    where_, ": input a_scale has shape ", a_scale.ShapeText(),
                    ", expected the leading dimensions of a ", a.ShapeText(), " and ", at.scales_per_row(),
                    " scales a row.");
    }
    LOWBIT_EXPECT(!residual.present || (residual.Cols() == at.n && residual.Rows() == a.Rows()), where_,
                  ": input residual has shape ", residual.ShapeText(), ", expected ", a.Rows(), " rows of ", at.n, ".");
    return Status::Ok();
  }

  /// The low-rank term's factors: all four inputs or none, in one or two codes a value.
  Status CheckLorc(const TensorView (&inputs)[kInputs]) const {
    const TensorView &down = inputs[kLorcDown], &down_scale = inputs[kLorcDownScale], &up = inputs[kLorcUp],
                     &up_scale = inputs[kLorcUpScale];
    const bool any = down.present || down_scale.present || up.present || up_scale.present;
    if (!any) return Status::Ok();
    LOWBIT_EXPECT(!dynamic(), where_, ": has lorc_down with a_format s8_dynamic, expected one of both.");
    LOWBIT_EXPECT(down.present && down_scale.present && up.present && up_scale.present, where_,
                  ": some of the inputs lorc_down, lorc_down_scale, lorc_up and lorc_up_scale are missing, expected "
                  "none of them or all.");
    const int64_t rank = down_scale.Count(), codes = down.rank == 2 ? down.dims[0] : 0;
    LOWBIT_EXPECT(down_scale.rank == 1 && rank <= gemm::kMaxLorcRank && (codes == rank || codes == 2 * rank), where_,
                  ": inputs lorc_down and lorc_down_scale have shapes ", down.ShapeText(), " and ",
                  down_scale.ShapeText(), ", expected [R,", attributes_.k, "] or [2R,", attributes_.k,
                  "], and [R] with R at most ", gemm::kMaxLorcRank, ".");
    LOWBIT_TRY(ExpectShape("lorc_down", down, {codes, attributes_.k}));
    LOWBIT_TRY(ExpectShape("lorc_up", up, {attributes_.n, codes}));
    return ExpectShape("lorc_up_scale", up_scale, {attributes_.n});
  }

#if LOWBIT_CUDA
  Status RunOnCuda(const TensorView (&inputs)[kInputs], void* y, int64_t rows, const KernelContext& context) const {
    const QuantGemmAttributes& at = attributes_;
    cuda::GemmArgs args;
    args.type = cuda::GraphType(type_);
    args.weight_format = CudaFormat(at.weight_format);
    args.a_format = CudaFormat(at.a_format);
    args.m = rows;
    args.n = static_cast<int>(at.n);
    args.k = static_cast<int>(at.k);
    args.outliers = static_cast<int>(at.outliers);
    args.group_size = static_cast<int>(at.group);
    args.powers_of_two = at.powers_of_two;
    args.a_group_size = static_cast<int>(at.a_group);
    args.a = inputs[kA].data;
    args.a_scale = at.a_floats ? nullptr : inputs[kAScale].As<float>();
    args.b = inputs[kB].data;
    args.b_scale = inputs[kBScale].As<uint16_t>();
    args.b_outlier = inputs[kBOutlier].As<int8_t>();
    args.b_outlier_scale = inputs[kBOutlierScale].As<uint16_t>();
    args.bias = inputs[kBias].present ? inputs[kBias].data : nullptr;
    args.residual = inputs[kResidual].present ? inputs[kResidual].data : nullptr;
    args.y = y;
    args.constant_weights = constant_[kB] && constant_[kBScale] &&
                            (at.outliers == 0 || (constant_[kBOutlier] && constant_[kBOutlierScale]));
    const float* threshold = dynamic() ? &at.threshold : nullptr;
    if (!inputs[kLorcDown].present) return RunGemmOnCuda(where_, args, nullptr, threshold, context);
    const gemm::Lorc lorc = MakeLorc(inputs);
    const cuda::LorcArgs term{
        static_cast<int>(lorc.rank), static_cast<int>(lorc.planes), lorc.down, lorc.down_scale, lorc.up, lorc.up_scale};
    return RunGemmOnCuda(where_, args, &term, nullptr, context);
  }
#endif

  /// Activations of both integer ranges are computed alike.
  Codes CodesOfA() const { return attributes_.a == Codes::kS4 ? Codes::kS8 : attributes_.a; }

  /// A few rows have kernels of their own, so there is a choice for each small number and one for the others.
  using Choices = KernelChoice[gemm::kFewRows + 2];
  const GemmKernel& Choose(Choices* choices, const gemm::Shape& shape, Codes a, Codes b) {
    const auto kernels = gemm::Kernels();
    const auto accepts = [&](size_t i) { return kernels[i].a == a && kernels[i].b == b && kernels[i].accepts(shape); };
    return kernels[(*choices)[std::min(shape.rows, gemm::kFewRows + 1)].Get("QuantGemm", KernelRows, accepts)];
  }

  gemm::Args MakeArgs(const TensorView (&inputs)[kInputs], void* y) const {
    const QuantGemmAttributes& at = attributes_;
    const int64_t group = at.product_group();
    gemm::Args args{};
    args.n = at.n;
    args.body = at.body();
    args.segment = group;
    args.segments = at.body() / group;
    args.outliers = at.outliers;
    args.a = inputs[kA].data;
    args.a_scale = inputs[kAScale].As<float>();
    args.a_values = at.a_values;
    args.a_sign_magnitude = at.a_sign_magnitude;
    args.a_scale_row = at.scales_per_row();
    args.a_scale_step = at.a_group > 0 ? 1 : 0;
    args.b = inputs[kB].As<uint8_t>();
    args.b_row = inputs[kB].Cols();
    args.b_scale = inputs[kBScale].As<uint16_t>();
    args.b_scale_row = at.weight_groups();
    args.b_scale_step = at.group > 0 ? 1 : 0;
    args.b_outlier = inputs[kBOutlier].As<int8_t>();
    args.b_outlier_row = at.outliers;
    args.b_outlier_scale = inputs[kBOutlierScale].As<uint16_t>();
    args.bias = inputs[kBias].present ? inputs[kBias].data : nullptr;
    args.residual = inputs[kResidual].present ? inputs[kResidual].data : nullptr;
    args.y = y;
    args.half = args.half_a = type_ == kF16;
    return args;
  }

  /// Replaces float activations by codes. What the outlier columns add is in y then, and with it the residual.
  Status QuantizeActivations(gemm::Args* args, int64_t rows, const KernelContext& context) {
    const auto& kernels = QuantizeKernels().entries();
    const auto accepts = [&](size_t i) { return kernels[i].type == kF32; };
    const size_t chosen = quantize_choice_.Get(
        "Quantize", [] { return QuantizeKernels().Rows(); }, accepts);
    gemm::ColumnSplit split;
    LOWBIT_TRY(SplitColumns(*args, attributes_.threshold, rows, kernels[chosen].run, context, &split));
    if (split.columns > 0) {
      const gemm::Args product = OutlierProduct(split, *args);
      Choices any_columns;  // their number changes from run to run
      const gemm::Shape shape{rows, args->n, split.columns, 1};
      LOWBIT_TRY(RunGemm(Choose(&any_columns, shape, Codes::kFloat, Codes::kS8), product, rows, context));
      args->residual = args->y;
    }
    args->a = split.q;
    args->a_scale = split.scale;
    return Status::Ok();
  }

  static gemm::Lorc MakeLorc(const TensorView (&inputs)[kInputs]) {
    const int64_t rank = inputs[kLorcDownScale].Count();
    return {rank,
            inputs[kLorcDown].dims[0] / rank,
            inputs[kLorcDown].As<int8_t>(),
            inputs[kLorcDownScale].As<uint16_t>(),
            inputs[kLorcUp].As<int8_t>(),
            inputs[kLorcUpScale].As<uint16_t>()};
  }

  std::string where_;
  ElementType type_ = kF32;
  bool on_cuda_ = false;
  QuantGemmAttributes attributes_;
  bool constant_[kInputs] = {};
  TensorView constants_[kInputs];
  Choices choices_, down_choices_;
  KernelChoice quantize_choice_;
};

Status InferShapes(ShapeInference& shapes) {
  Dims dims;
  if (!shapes.Input(kA, &dims)) return Status::Ok();
  dims.back() = Dim{shapes.Int("N", -1), ""};
  return shapes.SetOutput(0, dims, shapes.Type(kBias));
}

}  // namespace

const OpDefinition& QuantGemmDefinition() {
  static const OpDefinition definition{
      "QuantGemm", 1, kInputPorts, kOutputPorts, kAttributes, kOverloads, QuantGemm::Create, InferShapes, KernelRows};
  return definition;
}

}  // namespace lowbit
