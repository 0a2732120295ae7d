// ActQuantize: activation, then quantize rows. ops/act-quantize/contract.ts describes it, ops/formats/README.md defines
// the arithmetic.
#pragma once

#include "native/core/op_definition.h"

namespace lowbit {

const OpDefinition& ActQuantizeDefinition();

}  // namespace lowbit
