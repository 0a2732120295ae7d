// QuantGemm's attributes, read and checked once per node.
#pragma once

#include <string>

#include "native/core/op_definition.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit {

struct QuantGemmAttributes {
  std::string a_format, weight_format;  // as written
  bool powers_of_two = false;           // scale_ratios
  int64_t k = 0, n = 0;
  int64_t group = 0;    // channels per weight scale, 0: per output channel
  int64_t a_group = 0;  // channels per activation scale, 0: per token
  int64_t outliers = 0;
  gemm::Codes a = gemm::Codes::kS8;
  const float* a_values = nullptr;  // see gemm::Args
  bool a_sign_magnitude = false;    // see gemm::Args
  bool a_floats = false;            // s8_dynamic: a holds floats, quantized inside
  float threshold = 0;              // of outlier columns, see cpu/outlier_columns.h
  gemm::Codes b = gemm::Codes::kS4;

  int64_t body() const { return k - outliers; }
  int64_t weight_groups() const { return group > 0 ? body() / group : 1; }
  int64_t scales_per_row() const { return (a_group > 0 ? body() / a_group : 1) + (outliers > 0 ? 1 : 0); }
  /// Channels that share both scales: the groups of whichever side has groups.
  int64_t product_group() const { return group > 0 ? group : a_group > 0 ? a_group : body(); }
};

/// Reads the attributes; an error says what a value is and what it may be, beginning with `where`.
Status ReadQuantGemmAttributes(const KernelInfo& info, const std::string& where, const Overload& types,
                               QuantGemmAttributes* attributes);

}  // namespace lowbit
