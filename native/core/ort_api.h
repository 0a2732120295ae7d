// The ONNX Runtime C API as the host handed it over. Nothing here links onnxruntime, so one library serves every host.
#pragma once

#include <onnxruntime_c_api.h>

#include "native/core/status.h"

namespace lowbit {

/// Oldest and newest API the library asks for: 17 has ParallelFor and shape inference, 22 is the newest one it was
/// checked with.
inline constexpr uint32_t kOldestApi = 17;
inline constexpr uint32_t kNewestApi = 22;
/// OrtCustomOp's layout has not changed since 18; older runtimes read only the fields they know.
inline constexpr uint32_t kCustomOpVersion = 18;

/// Takes the API out of `base`; an error names the host's version when it is older than kOldestApi.
Status UseOrtApi(const OrtApiBase* base);

/// The API taken by UseOrtApi. Only called by code that a host entered, hence after UseOrtApi succeeded.
const OrtApi& Ort();

/// Moves an ONNX Runtime error into a Status and releases it; nullptr is success.
Status FromOrt(OrtStatus* status);

/// Makes the ONNX Runtime error for `status`, nullptr for success.
OrtStatus* ToOrt(const Status& status);

}  // namespace lowbit
