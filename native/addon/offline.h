// Offline algorithms (weight rounding, low-rank terms) for the rewriter, off the event loop.
#pragma once

#include <napi.h>

namespace lowbit::host {

/// gptq(weights, hessian, spec) -> Promise<{codes, scales, outlierScales, loss, damping}>; overwrites both arrays.
Napi::Value GptqRound(const Napi::CallbackInfo& info);

/// quadraticForm(rows, matrix, cols, threads) -> Promise<number>
Napi::Value OfflineQuadraticForm(const Napi::CallbackInfo& info);

/// lowRank(matrix, rows, cols, rank, threads) -> Promise<{up, down}>
Napi::Value OfflineLowRank(const Napi::CallbackInfo& info);

}  // namespace lowbit::host
