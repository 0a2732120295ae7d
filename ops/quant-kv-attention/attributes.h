// QuantKvAttention's attributes, read and checked once per node.
#pragma once

#include <string>

#include "native/core/op_definition.h"
#include "ops/quant-kv-attention/cpu/attention.h"

namespace lowbit {

struct QuantKvAttentionAttributes {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t bits = 4;
  int64_t window = 0;  // 0: all
  float clip = 1, scale = 0, softcap = 0;
  bool causal = true, rope_before_store = false, in_place = false;
  bool quantize = false;  // the output; how is RowOp's part
  kv::Rotary rotary = kv::Rotary::kNone;

  int64_t row_bytes() const { return head_dim * bits / 8; }
};

/// Reads the attributes; an error says what a value is and what it may be, beginning with `where`. A scale of 0 comes
/// back as 1/sqrt(head_dim).
Status ReadQuantKvAttentionAttributes(const KernelInfo& info, const std::string& where,
                                      QuantKvAttentionAttributes* attributes);

}  // namespace lowbit
