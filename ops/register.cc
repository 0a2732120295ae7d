#include "ops/register.h"

#include "ops/quant-gemm/op.h"

namespace lowbit {

std::span<const OpDefinition* const> AllOps() {
  // One line per operator, in the order of ops/index.ts.
  static const OpDefinition* const ops[] = {
      &QuantGemmDefinition(),
  };
  return ops;
}

}  // namespace lowbit
