#include "ops/register.h"

#include "ops/act-quantize/op.h"
#include "ops/gated-act-quantize/op.h"
#include "ops/norm-quantize/op.h"
#include "ops/quant-gemm/op.h"
#include "ops/quant-kv-attention/op.h"
#include "ops/quantize/op.h"

namespace lowbit {

std::span<const OpDefinition* const> AllOps() {
  // One line per operator, in the order of ops/index.ts.
  static const OpDefinition* const ops[] = {
      &QuantizeDefinition(),    &NormQuantizeDefinition(), &GatedActQuantizeDefinition(),
      &ActQuantizeDefinition(), &QuantGemmDefinition(),    &QuantKvAttentionDefinition(),
  };
  return ops;
}

}  // namespace lowbit
