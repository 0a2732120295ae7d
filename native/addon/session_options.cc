#include "session_options.h"

namespace lowbit::host {
namespace {

template <class T>
std::optional<T> Read(Napi::Object options, const char* name) {
  const Napi::Value value = options.Get(name);
  if (value.IsUndefined()) return std::nullopt;
  if constexpr (std::is_same_v<T, bool>) return value.As<Napi::Boolean>().Value();
  if constexpr (std::is_same_v<T, int>) return value.As<Napi::Number>().Int32Value();
  if constexpr (std::is_same_v<T, std::string>) return value.As<Napi::String>().Utf8Value();
}

KeyValues ReadKeyValues(Napi::Value value) {
  KeyValues out;
  const auto entries = value.As<Napi::Array>();
  for (uint32_t i = 0; i < entries.Length(); ++i) {
    const auto entry = entries.Get(i).As<Napi::Array>();
    out.emplace_back(entry.Get(0u).As<Napi::String>(), entry.Get(1u).As<Napi::String>());
  }
  return out;
}

void AppendCuda(OrtSessionOptions* options, const KeyValues& entries) {
  struct Release {
    void operator()(OrtCUDAProviderOptionsV2* p) const { Api().ReleaseCUDAProviderOptions(p); }
  };
  OrtCUDAProviderOptionsV2* raw = nullptr;
  Check(Api().CreateCUDAProviderOptions(&raw));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, Release> cuda(raw);
  std::vector<const char*> keys, values;
  for (const auto& [key, value] : entries) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  Check(Api().UpdateCUDAProviderOptions(cuda.get(), keys.data(), values.data(), keys.size()));
  Check(Api().SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get()));
}

void AddExternalFiles(OrtSessionOptions* options, const std::vector<SessionConfig::ExternalFile>& files) {
  std::vector<const ORTCHAR_T*> paths;
  std::vector<char*> buffers;  // ORT only reads them; its parameter lacks a const
  std::vector<size_t> lengths;
  for (const auto& file : files) {
    paths.push_back(file.path.c_str());
    buffers.push_back(static_cast<char*>(const_cast<void*>(file.bytes)));
    lengths.push_back(file.byte_count);
  }
  Check(Api().AddExternalInitializersFromFilesInMemory(options, paths.data(), buffers.data(), lengths.data(),
                                                       files.size()));
}

}  // namespace

SessionConfig ReadSessionConfig(Napi::Object options) {
  SessionConfig out;
  out.intra_op_threads = Read<int>(options, "intraOpNumThreads");
  out.inter_op_threads = Read<int>(options, "interOpNumThreads");
  out.optimization_level = Read<int>(options, "graphOptimizationLevel");
  out.execution_mode = Read<int>(options, "executionMode");
  out.log_severity = Read<int>(options, "logSeverityLevel");
  out.log_verbosity = Read<int>(options, "logVerbosityLevel");
  out.cpu_arena = Read<bool>(options, "enableCpuMemArena");
  out.memory_pattern = Read<bool>(options, "enableMemPattern");
  out.optimized_model_path = Read<std::string>(options, "optimizedModelFilePath");
  out.profile_prefix = Read<std::string>(options, "profileFilePrefix");
  out.log_id = Read<std::string>(options, "logId");
  for (const auto& [name, value] : ReadKeyValues(options.Get("freeDimensionOverrides"))) {
    out.free_dimensions.emplace_back(name, std::stoll(value));
  }
  out.config = ReadKeyValues(options.Get("config"));
  if (const Napi::Value cuda = options.Get("cuda"); !cuda.IsUndefined()) out.cuda = ReadKeyValues(cuda);
  const auto files = options.Get("externalData").As<Napi::Array>();
  for (uint32_t i = 0; i < files.Length(); ++i) {
    const auto file = files.Get(i).As<Napi::Object>();
    const auto bytes = file.Get("data").As<Napi::Uint8Array>();
    out.external_data.push_back({file.Get("path").As<Napi::String>(), bytes.Data(), bytes.ByteLength()});
  }
  return out;
}

SessionOptionsPtr MakeSessionOptions(const SessionConfig& config) {
  const OrtApi& api = Api();
  OrtSessionOptions* raw = nullptr;
  Check(api.CreateSessionOptions(&raw));
  SessionOptionsPtr options(raw);
  if (config.intra_op_threads) Check(api.SetIntraOpNumThreads(raw, *config.intra_op_threads));
  if (config.inter_op_threads) Check(api.SetInterOpNumThreads(raw, *config.inter_op_threads));
  if (config.optimization_level) {
    Check(api.SetSessionGraphOptimizationLevel(raw, static_cast<GraphOptimizationLevel>(*config.optimization_level)));
  }
  if (config.execution_mode)
    Check(api.SetSessionExecutionMode(raw, static_cast<ExecutionMode>(*config.execution_mode)));
  if (config.log_severity) Check(api.SetSessionLogSeverityLevel(raw, *config.log_severity));
  if (config.log_verbosity) Check(api.SetSessionLogVerbosityLevel(raw, *config.log_verbosity));
  if (config.log_id) Check(api.SetSessionLogId(raw, config.log_id->c_str()));
  if (config.cpu_arena) Check(*config.cpu_arena ? api.EnableCpuMemArena(raw) : api.DisableCpuMemArena(raw));
  if (config.memory_pattern) Check(*config.memory_pattern ? api.EnableMemPattern(raw) : api.DisableMemPattern(raw));
  if (config.optimized_model_path) Check(api.SetOptimizedModelFilePath(raw, config.optimized_model_path->c_str()));
  if (config.profile_prefix) Check(api.EnableProfiling(raw, config.profile_prefix->c_str()));
  for (const auto& [name, value] : config.free_dimensions) {
    Check(api.AddFreeDimensionOverrideByName(raw, name.c_str(), value));
  }
  for (const auto& [key, value] : config.config) Check(api.AddSessionConfigEntry(raw, key.c_str(), value.c_str()));
  if (!config.external_data.empty()) AddExternalFiles(raw, config.external_data);
  if (config.cuda) AppendCuda(raw, *config.cuda);
  // ORT keeps the library loaded as long as a session of these options lives.
  Check(api.RegisterCustomOpsLibrary_V2(raw, GetRuntime().oplib_path.c_str()));
  return options;
}

}  // namespace lowbit::host
