#include "ops/quant-gemm/attributes.h"

namespace lowbit {
namespace {

using gemm::Codes;

/// The largest K whose s8 x s8 sums fit in int32.
constexpr int64_t kMaxK = 131072;

Status CheckGroup(const std::string& where, const char* name, int64_t group, int64_t body) {
  LOWBIT_EXPECT(group == 0 || (group > 0 && group % 16 == 0 && body % group == 0), where, ": attribute ", name, " is ",
                group, ", expected 0 or a multiple of 16 that divides K - outlier_channels = ", body, ".");
  return Status::Ok();
}

}  // namespace

Status ReadQuantGemmAttributes(const KernelInfo& info, const std::string& where, const Overload& types,
                               QuantGemmAttributes* attributes) {
  QuantGemmAttributes& at = *attributes;
  const int64_t zero = 0;
  std::string a_format, weight_format;
  LOWBIT_TRY(info.Int("K", &at.k));
  LOWBIT_TRY(info.Int("N", &at.n));
  LOWBIT_TRY(info.Int("group_size", &at.group, &zero));
  LOWBIT_TRY(info.Int("a_group_size", &at.a_group, &zero));
  LOWBIT_TRY(info.Int("outlier_channels", &at.outliers, &zero));
  LOWBIT_TRY(info.String("weight_format", &weight_format));
  LOWBIT_TRY(info.String("a_format", &a_format));

  LOWBIT_EXPECT(at.n > 0, where, ": attribute N is ", at.n, ", expected at least 1.");
  LOWBIT_EXPECT(at.outliers >= 0 && at.k > at.outliers && at.k <= kMaxK, where,
                ": attributes K and outlier_channels are ", at.k, " and ", at.outliers,
                ", expected 0 <= outlier_channels < K <= ", kMaxK, ".");
  LOWBIT_EXPECT(weight_format == "s4" || weight_format == "s8", where, ": attribute weight_format is \"", weight_format,
                "\", expected \"s4\" or \"s8\".");
  LOWBIT_EXPECT(a_format == "s4" || a_format == "s8" || a_format == "none", where, ": attribute a_format is \"",
                a_format, "\", expected \"s4\", \"s8\" or \"none\".");
  at.a = a_format == "none" ? Codes::kFloat : a_format == "s4" ? Codes::kS4 : Codes::kS8;
  at.b = weight_format == "s4" ? Codes::kS4 : Codes::kS8;
  LOWBIT_EXPECT((at.b == Codes::kS4) == (types.b == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8), where, ": input b is ",
                TypeName(types.b), ", expected uint8 for s4 weights and int8 for s8 weights.");
  LOWBIT_EXPECT((at.a == Codes::kFloat) == (types.a != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8), where, ": input a is ",
                TypeName(types.a), " with a_format \"", a_format,
                "\", expected int8 codes for s4 and s8, floats for none.");
  LOWBIT_TRY(CheckGroup(where, "group_size", at.group, at.body()));
  LOWBIT_TRY(CheckGroup(where, "a_group_size", at.a_group, at.body()));
  LOWBIT_EXPECT(at.a_group == 0 || at.group == 0 || at.a_group == at.group, where,
                ": attributes group_size and a_group_size are ", at.group, " and ", at.a_group,
                ", expected equal ones when neither is 0.");
  LOWBIT_EXPECT(at.a != Codes::kFloat || (at.outliers == 0 && at.a_group == 0), where,
                ": a_format is \"none\" with outlier_channels ", at.outliers, " and a_group_size ", at.a_group,
                ", expected 0 for both: outliers need quantized activations.");
  return Status::Ok();
}

}  // namespace lowbit
