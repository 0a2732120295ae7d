// Quantize: gather and quantize rows. ops/quantize/contract.ts describes it, ops/formats/README.md defines the
// arithmetic.
#pragma once

#include "native/core/op_definition.h"

namespace lowbit {

const OpDefinition& QuantizeDefinition();

}  // namespace lowbit
