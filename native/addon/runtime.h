// ONNX Runtime as this process has it: one library, loaded by path, one OrtEnv, one API table.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace lowbit::host {

/// A failed ONNX Runtime call, with ONNX Runtime's own words.
class OrtError : public std::runtime_error {
 public:
  OrtError(OrtErrorCode code, const std::string& message) : std::runtime_error(message), code(code) {}
  const OrtErrorCode code;
};

struct Runtime {
  std::string path;        // of libonnxruntime, as asked for
  std::string version;     // of the library, e.g. "1.29.0"
  uint32_t api_version;    // of the table in use
  std::string oplib_path;  // of libort_lowbit
  const OrtApi* api;
  OrtEnv* env;
  const char* (*describe)();                           // OrtLowbitDescribe
  int (*force_kernel)(const char* op, const char* n);  // OrtLowbitForceKernel
};

/// Loads the runtime and the operator library once per process; later calls return the same and insist on the same
/// paths. Throws std::runtime_error with a text that says what to do.
const Runtime& LoadRuntime(const std::string& path, const std::string& oplib_path, OrtLoggingLevel log_level);

/// The loaded runtime; throws when LoadRuntime has not succeeded yet.
const Runtime& GetRuntime();
inline const OrtApi& Api() { return *GetRuntime().api; }

/// Throws OrtError when `status` is an error; releases it.
void Check(OrtStatus* status);

/// Owners of ORT objects. The table outlives every object: the runtime is never unloaded.
template <class T, void (ORT_API_CALL* OrtApi::*kRelease)(T*)>
struct Releaser {
  void operator()(T* object) const { (Api().*kRelease)(object); }
};
using ValuePtr = std::unique_ptr<OrtValue, Releaser<OrtValue, &OrtApi::ReleaseValue>>;
using SessionPtr = std::unique_ptr<OrtSession, Releaser<OrtSession, &OrtApi::ReleaseSession>>;
using SessionOptionsPtr =
    std::unique_ptr<OrtSessionOptions, Releaser<OrtSessionOptions, &OrtApi::ReleaseSessionOptions>>;
using RunOptionsPtr = std::unique_ptr<OrtRunOptions, Releaser<OrtRunOptions, &OrtApi::ReleaseRunOptions>>;
using MemoryInfoPtr = std::unique_ptr<OrtMemoryInfo, Releaser<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo>>;
using TypeInfoPtr = std::unique_ptr<OrtTypeInfo, Releaser<OrtTypeInfo, &OrtApi::ReleaseTypeInfo>>;
using ShapeInfoPtr = std::unique_ptr<OrtTensorTypeAndShapeInfo,
                                     Releaser<OrtTensorTypeAndShapeInfo, &OrtApi::ReleaseTensorTypeAndShapeInfo>>;
using ModelMetadataPtr = std::unique_ptr<OrtModelMetadata, Releaser<OrtModelMetadata, &OrtApi::ReleaseModelMetadata>>;
using IoBindingPtr = std::unique_ptr<OrtIoBinding, Releaser<OrtIoBinding, &OrtApi::ReleaseIoBinding>>;
using AllocatorPtr = std::unique_ptr<OrtAllocator, Releaser<OrtAllocator, &OrtApi::ReleaseAllocator>>;

/// Memory handed out by ORT's default allocator (names, paths).
std::string TakeString(char* text);

}  // namespace lowbit::host
