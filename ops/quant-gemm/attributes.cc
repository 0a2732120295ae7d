#include "ops/quant-gemm/attributes.h"

#include "ops/formats/minifloat.h"

namespace lowbit {
namespace {

using gemm::Codes;

/// The largest K whose s8 x s8 sums fit in int32.
constexpr int64_t kMaxK = 131072;

constexpr CodeValues<256> kE4M3Values = MinifloatValues<256>(kE4M3), kE5M2Values = MinifloatValues<256>(kE5M2),
                          kS8Values = IntegerValues<256>();

struct WeightFormat {
  const char* name;
  Codes codes;
};
constexpr WeightFormat kWeightFormats[] = {{"s4", Codes::kS4},     {"s8", Codes::kS8},          {"e2m1", Codes::kE2M1},
                                           {"e3m0", Codes::kE3M0}, {"bnb_fp4", Codes::kBnbFp4}, {"e4m3", Codes::kE4M3}};

Status ReadWeightFormat(const std::string& where, const std::string& name, Codes* codes) {
  for (const WeightFormat& format : kWeightFormats) {
    if (name != format.name) continue;
    *codes = format.codes;
    return Status::Ok();
  }
  return Status::Error(ORT_INVALID_ARGUMENT, where, ": attribute weight_format is \"", name,
                       "\", expected \"s4\", \"s8\", \"e2m1\", \"e3m0\", \"bnb_fp4\" or \"e4m3\".");
}

/// Integer sums where both sides are integers; else activations become floats by table.
Status ReadActivationFormat(const std::string& where, const std::string& name, QuantGemmAttributes* at) {
  if (name == "none") {
    at->a = Codes::kFloat;
    at->a_floats = true;
  } else if (name == "s8_dynamic") {
    at->a = Codes::kS8;
    at->a_floats = true;
  } else if (name == "e4m3" || name == "e5m2") {
    at->a = Codes::kTable;
    at->a_values = name == "e4m3" ? kE4M3Values.of : kE5M2Values.of;
  } else if (name == "s4" || name == "s8" || name == "s4_e4m3") {
    const bool integers = at->b == Codes::kS4 || at->b == Codes::kS8;
    at->a = !integers ? Codes::kTable : name == "s8" ? Codes::kS8 : Codes::kS4;
    at->a_sign_magnitude = name == "s4_e4m3";
    at->a_values = integers ? nullptr : kS8Values.of;
  } else {
    return Status::Error(ORT_INVALID_ARGUMENT, where, ": attribute a_format is \"", name,
                         "\", expected \"s4\", \"s8\", \"e4m3\", \"e5m2\", \"s4_e4m3\", \"s8_dynamic\" or \"none\".");
  }
  return Status::Ok();
}

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
  LOWBIT_TRY(info.Int("K", &at.k));
  LOWBIT_TRY(info.Int("N", &at.n));
  LOWBIT_TRY(info.Int("group_size", &at.group, &zero));
  LOWBIT_TRY(info.Int("a_group_size", &at.a_group, &zero));
  LOWBIT_TRY(info.Int("outlier_channels", &at.outliers, &zero));
  const float none = 0;
  LOWBIT_TRY(info.Float("threshold", &at.threshold, &none));
  LOWBIT_TRY(info.String("weight_format", &at.weight_format));
  LOWBIT_TRY(info.String("a_format", &at.a_format));
  std::string ratios;
  LOWBIT_TRY(info.String("scale_ratios", &ratios, "any"));
  at.powers_of_two = ratios == "powers_of_two";
  LOWBIT_EXPECT(at.powers_of_two || ratios == "any", where, ": attribute scale_ratios is \"", ratios,
                "\", expected \"any\" or \"powers_of_two\".");

  LOWBIT_EXPECT(at.n > 0, where, ": attribute N is ", at.n, ", expected at least 1.");
  LOWBIT_EXPECT(at.outliers >= 0 && at.k > at.outliers && at.k <= kMaxK, where,
                ": attributes K and outlier_channels are ", at.k, " and ", at.outliers,
                ", expected 0 <= outlier_channels < K <= ", kMaxK, ".");
  LOWBIT_TRY(ReadWeightFormat(where, at.weight_format, &at.b));
  LOWBIT_TRY(ReadActivationFormat(where, at.a_format, &at));
  LOWBIT_EXPECT(gemm::IsNibble(at.b) == (types.b == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8), where, ": input b is ",
                TypeName(types.b), ", expected uint8 for weights of 4 bits and int8 for those of 8.");
  LOWBIT_EXPECT(at.a_floats == (types.a != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8), where, ": input a is ",
                TypeName(types.a), " with a_format \"", at.a_format,
                "\", expected floats for none and s8_dynamic, else int8 codes.");
  LOWBIT_TRY(CheckGroup(where, "group_size", at.group, at.body()));
  LOWBIT_TRY(CheckGroup(where, "a_group_size", at.a_group, at.body()));
  LOWBIT_EXPECT(at.a_group == 0 || at.group == 0 || at.a_group == at.group, where,
                ": attributes group_size and a_group_size are ", at.group, " and ", at.a_group,
                ", expected equal ones when neither is 0.");
  LOWBIT_EXPECT(at.a != Codes::kFloat || (at.outliers == 0 && at.a_group == 0), where,
                ": a_format is \"none\" with outlier_channels ", at.outliers, " and a_group_size ", at.a_group,
                ", expected 0 for both: outliers need quantized activations.");
  const bool dynamic = at.a_floats && at.a != Codes::kFloat;
  LOWBIT_EXPECT(!dynamic || (at.b == Codes::kS8 && at.group == 0 && at.a_group == 0 && at.outliers == 0), where,
                ": a_format is \"s8_dynamic\" with weight_format \"", at.weight_format, "\", group_size ", at.group,
                ", a_group_size ", at.a_group, " and outlier_channels ", at.outliers,
                ", expected \"s8\" and 0 for the others.");
  LOWBIT_EXPECT(at.threshold >= 0.f && (dynamic || at.threshold == 0.f), where, ": attribute threshold is ",
                at.threshold, " with a_format \"", at.a_format, "\", expected 0, or more with s8_dynamic.");
  return Status::Ok();
}

}  // namespace lowbit
