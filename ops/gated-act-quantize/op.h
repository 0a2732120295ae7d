// GatedActQuantize: act(gate) * up, then quantize rows. ops/gated-act-quantize/contract.ts describes it,
// ops/formats/README.md defines the arithmetic.
#pragma once

#include "native/core/op_definition.h"

namespace lowbit {

const OpDefinition& GatedActQuantizeDefinition();

}  // namespace lowbit
