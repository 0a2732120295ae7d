// Cuts attention into tasks for the session's threads.
#pragma once

#include "native/core/kernel_context.h"
#include "native/core/status.h"
#include "ops/quant-kv-attention/cpu/attention.h"

namespace lowbit::kv {

/// Every kernel of this build, fastest first, the portable ones last.
const Kernel* const* AllKernels(size_t* count);

/// Brings the past cache over, quantizes the new tokens behind it, attends. Present buffers may be the past ones.
Status RunAttention(const Kernel& kernel, const Args& args, int64_t batch, const KernelContext& context);

}  // namespace lowbit::kv
