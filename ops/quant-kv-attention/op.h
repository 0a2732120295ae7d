// QuantKvAttention as ONNX Runtime sees it: attributes, checks, kernel choice, threads. The arithmetic of the cache is
// in ops/formats/README.md, the rest in this folder's README.
#pragma once

#include "native/core/op_definition.h"

namespace lowbit {

const OpDefinition& QuantKvAttentionDefinition();

}  // namespace lowbit
