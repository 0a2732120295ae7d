// The addon's surface, typed in native/js/addon.ts.
#include <napi.h>

#include "cuda_driver.h"
#include "device.h"
#include "js_loop.h"
#include "offline.h"
#include "run.h"
#include "runtime.h"
#include "session.h"

namespace lowbit::host {
namespace {

/// load(runtimePath, operatorLibraryPath, logLevel) -> {version, apiVersion}
Napi::Value Load(const Napi::CallbackInfo& info) {
  const Runtime& runtime = LoadRuntime(info[0].As<Napi::String>(), info[1].As<Napi::String>(),
                                       static_cast<OrtLoggingLevel>(info[2].As<Napi::Number>().Int32Value()));
  auto out = Napi::Object::New(info.Env());
  out.Set("version", runtime.version);
  out.Set("apiVersion", runtime.api_version);
  return out;
}

/// describeOps() -> JSON text of OrtLowbitDescribe
Napi::Value DescribeOps(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), GetRuntime().describe());
}

/// forceKernel(op, name | null) -> the library's answer, 0 when it has such a kernel
Napi::Value ForceKernel(const Napi::CallbackInfo& info) {
  const std::string op = info[0].As<Napi::String>();
  const std::string name = info[1].IsNull() ? "" : info[1].As<Napi::String>().Utf8Value();
  return Napi::Number::New(info.Env(),
                           GetRuntime().force_kernel(op.c_str(), info[1].IsNull() ? nullptr : name.c_str()));
}

/// cudaFacts() -> {driverFound, error, driverVersion, devices: {name, capability, memoryBytes}[]}
Napi::Value CudaFactsToJs(const Napi::CallbackInfo& info) {
  const CudaFacts facts = ReadCudaFacts();
  auto out = Napi::Object::New(info.Env());
  out.Set("driverFound", facts.driver_found);
  out.Set("error", facts.error);
  out.Set("driverVersion", facts.driver_version);
  auto devices = Napi::Array::New(info.Env());
  for (uint32_t i = 0; i < facts.devices.size(); ++i) {
    auto device = Napi::Object::New(info.Env());
    device.Set("name", facts.devices[i].name);
    device.Set("capability", std::to_string(facts.devices[i].major) + "." + std::to_string(facts.devices[i].minor));
    device.Set("memoryBytes", static_cast<double>(facts.devices[i].memory_bytes));
    devices.Set(i, device);
  }
  out.Set("devices", devices);
  return out;
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("load", Load);
  add("createSession", CreateSession);
  add("describeSession", DescribeSession);
  add("run", Run);
  add("terminate", TerminateRun);
  add("release", ReleaseSession);
  add("endProfiling", EndProfiling);
  add("allocate", AllocateDeviceTensor);
  add("upload", UploadDeviceTensor);
  add("download", DownloadDeviceTensor);
  add("dispose", DisposeDeviceTensor);
  add("stopEverything", [](const Napi::CallbackInfo&) { StopEverything(); });
  add("describeOps", DescribeOps);
  add("forceKernel", ForceKernel);
  add("cudaFacts", CudaFactsToJs);
  add("gptq", GptqRound);
  add("quadraticForm", OfflineQuadraticForm);
  add("lowRank", OfflineLowRank);
  return exports;
}

}  // namespace
}  // namespace lowbit::host

Napi::Object InitAddon(Napi::Env env, Napi::Object exports) { return lowbit::host::Init(env, exports); }
NODE_API_MODULE(ort_lowbit_host, InitAddon)
