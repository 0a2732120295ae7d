#include "runtime.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>

namespace lowbit::host {
namespace {

// The oldest table that has every call made here, and the newest whose layout we ask for: GetApi of a table that is too
// new prints to stderr and returns null, so the number is derived from the version the library states.
constexpr uint32_t kOldestApi = 17;
constexpr uint32_t kNewestApi = 22;

std::mutex g_mutex;
std::atomic<const Runtime*> g_runtime{nullptr};

std::string DlError() {
  const char* text = dlerror();
  return text ? text : "unknown dynamic loader error";
}

template <class Function>
Function Symbol(void* library, const char* name, const std::string& path) {
  void* symbol = dlsym(library, name);
  if (!symbol) {
    throw std::runtime_error(path + ": has no symbol " + name +
                             ", expected it in this library. Reinstall the package.");
  }
  return reinterpret_cast<Function>(symbol);
}

uint32_t MinorVersion(const std::string& version) {
  const auto dot = version.find('.');
  return dot == std::string::npos ? 0 : static_cast<uint32_t>(std::strtoul(version.c_str() + dot + 1, nullptr, 10));
}

void LoadOrt(Runtime& runtime, OrtLoggingLevel log_level) {
  // The same file that onnxruntime-node's binding names in its RUNPATH: the loader maps one copy for both.
  void* library = dlopen(runtime.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    throw std::runtime_error(
        runtime.path + ": cannot be loaded (" + DlError() +
        "), expected onnxruntime-node's shared library for this platform. Reinstall onnxruntime-node.");
  }
  const auto get_base = Symbol<const OrtApiBase*(ORT_API_CALL*)()>(library, "OrtGetApiBase", runtime.path);
  const OrtApiBase* base = get_base();
  runtime.version = base->GetVersionString();
  const uint32_t offered = MinorVersion(runtime.version);
  runtime.api_version = std::min(offered, kNewestApi);
  runtime.api = offered >= kOldestApi ? base->GetApi(runtime.api_version) : nullptr;
  if (!runtime.api) {
    throw std::runtime_error(runtime.path + ": onnxruntime " + runtime.version + " offers API " +
                             std::to_string(offered) + ", expected at least " + std::to_string(kOldestApi) +
                             ". Update onnxruntime-node to 1.24 or newer.");
  }
  // ORT keeps one environment per process and counts references; this reference is never given back, so that no
  // session of any thread can outlive it at exit.
  OrtStatus* status = runtime.api->CreateEnv(log_level, "ort-lowbit", &runtime.env);
  if (status) {
    const std::string message = runtime.api->GetErrorMessage(status);
    runtime.api->ReleaseStatus(status);
    throw std::runtime_error(runtime.path + ": no environment (" + message + ").");
  }
}

void LoadOperators(Runtime& runtime) {
  void* library = dlopen(runtime.oplib_path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    throw std::runtime_error(runtime.oplib_path + ": cannot be loaded (" + DlError() +
                             "), expected the operator library. Run npm run build:native.");
  }
  runtime.describe = Symbol<const char* (*)()>(library, "OrtLowbitDescribe", runtime.oplib_path);
  runtime.force_kernel = Symbol<int (*)(const char*, const char*)>(library, "OrtLowbitForceKernel", runtime.oplib_path);
}

}  // namespace

const Runtime& LoadRuntime(const std::string& path, const std::string& oplib_path, OrtLoggingLevel log_level) {
  const std::lock_guard lock(g_mutex);
  if (const Runtime* loaded = g_runtime.load()) {
    if (loaded->path != path || loaded->oplib_path != oplib_path) {
      throw std::runtime_error(path + ": another copy is already loaded (" + loaded->path + " with " +
                               loaded->oplib_path +
                               "), expected one per process. Use the same installation everywhere.");
    }
    return *loaded;
  }
  auto runtime = std::make_unique<Runtime>();
  runtime->path = path;
  runtime->oplib_path = oplib_path;
  LoadOrt(*runtime, log_level);
  LoadOperators(*runtime);
  g_runtime.store(runtime.release());
  return *g_runtime.load();
}

const Runtime& GetRuntime() {
  const Runtime* runtime = g_runtime.load();
  if (!runtime) throw std::runtime_error("internal: ONNX Runtime is used before it is loaded");
  return *runtime;
}

void Check(OrtStatus* status) {
  if (!status) return;
  const OrtError error(Api().GetErrorCode(status), Api().GetErrorMessage(status));
  Api().ReleaseStatus(status);
  throw error;
}

std::string TakeString(char* text) {
  OrtAllocator* allocator = nullptr;
  Check(Api().GetAllocatorWithDefaultOptions(&allocator));
  std::string copy = text;
  Check(Api().AllocatorFree(allocator, text));
  return copy;
}

}  // namespace lowbit::host
