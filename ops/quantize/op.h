// Quantize: gather and quantize rows. ops/quantize/contract.ts describes it, ops/formats/README.md defines the
// arithmetic.
#pragma once

#include "ops/rows/row_op.h"

namespace lowbit {

const OpDefinition& QuantizeDefinition();

/// The kernels that quantize rows as they are, also for operators that quantize a result of theirs.
const RowKernelTable& QuantizeKernels();

}  // namespace lowbit
