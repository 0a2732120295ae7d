// The operator library's C interface: exactly the symbols of exports.map.
#pragma once

#include <onnxruntime_c_api.h>

#define LOWBIT_EXPORT __attribute__((visibility("default")))

extern "C" {

/// ONNX Runtime's entry point (RegisterCustomOpsLibrary): adds the domain `lowbit` to the session options.
LOWBIT_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

/// JSON: {version, ops: [{type, since, inputs, outputs, attributes}], cpu: {features}, kernels: [{op, name,
/// available}], cuda: {built, archs}}. The text lives as long as the library.
LOWBIT_EXPORT const char* OrtLowbitDescribe(void);

/// Makes `op` run kernels called `name` (a full name, or an architecture such as "avx2") from now on; NULL chooses by
/// speed again. 0: done; 1: no such operator; 2: it has no such kernel; 3: this CPU cannot run it.
LOWBIT_EXPORT int OrtLowbitForceKernel(const char* op, const char* name);
}
