// QuantGemm as ONNX Runtime sees it: attributes, checks, kernel choice. The arithmetic is in ops/formats/README.md, the
// code in cpu/.
#pragma once

#include "native/core/op_definition.h"

namespace lowbit {

const OpDefinition& QuantGemmDefinition();

}  // namespace lowbit
