// The table of operators, native side.
#pragma once

#include <span>

#include "native/core/op_definition.h"

namespace lowbit {

std::span<const OpDefinition* const> AllOps();

}  // namespace lowbit
