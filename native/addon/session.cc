#include "session.h"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "session_options.h"

namespace lowbit::host {
namespace {

constexpr napi_type_tag kSessionTag = {0x6f72746c6f776269, 0x73657373696f6e31};

size_t MaxThreads(bool on_device) {
  // A device session owns one thread: CUDA graphs are captured per thread. A CPU run already spreads over ORT's own
  // pool and uses the calling thread as one of its workers, so a handful of concurrent runs fills any machine.
  return on_device ? 1 : std::clamp<size_t>(std::thread::hardware_concurrency(), 2, 8);
}

class LoadJob final : public Job {
 public:
  LoadJob(Napi::Env env, std::shared_ptr<Session> session, Napi::Value source, Napi::Object options)
      : Job(env), session_(std::move(session)), config_(ReadSessionConfig(options)) {
    kept_ = Napi::Persistent(Napi::Array::New(env));
    kept_.Value().Set(0u, source);
    kept_.Value().Set(1u, options);
    if (source.IsString()) {
      path_ = source.As<Napi::String>();
    } else {
      const auto view = source.As<Napi::Uint8Array>();
      bytes_ = view.Data();
      byte_count_ = view.ByteLength();
    }
  }

  void Execute() override {
    const auto options = MakeSessionOptions(config_);
    session_->Loading(options.get());
    OrtSession* raw = nullptr;
    OrtStatus* status = bytes_ || path_.empty()
                            ? Api().CreateSessionFromArray(GetRuntime().env, bytes_, byte_count_, options.get(), &raw)
                            : Api().CreateSession(GetRuntime().env, path_.c_str(), options.get(), &raw);
    session_->Loading(nullptr);
    Check(status);
    session_->Set(SessionPtr(raw));
  }

  Napi::Value Resolve(Napi::Env env) override {
    auto handle = Napi::External<std::shared_ptr<Session>>::New(
        env, new std::shared_ptr<Session>(session_), [](Napi::Env, std::shared_ptr<Session>* held) { delete held; });
    handle.TypeTag(&kSessionTag);
    return handle;
  }

 private:
  const std::shared_ptr<Session> session_;
  const SessionConfig config_;
  Napi::Reference<Napi::Array> kept_;  // the bytes that ORT reads while loading
  std::string path_;
  const void* bytes_ = nullptr;
  size_t byte_count_ = 0;
};

class UnloadJob final : public Job {
 public:
  UnloadJob(Napi::Env env, std::shared_ptr<Session> session) : Job(env), session_(std::move(session)) {}
  void Execute() override { session_->Set(nullptr); }
  Napi::Value Resolve(Napi::Env env) override {
    session_->Stop();
    return env.Undefined();
  }

 private:
  const std::shared_ptr<Session> session_;
};

Napi::Object DescribeValue(Napi::Env env, char* name, const TypeInfoPtr& type) {
  auto out = Napi::Object::New(env);
  out.Set("name", TakeString(name));
  auto shape = Napi::Array::New(env);
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  Check(Api().CastTypeInfoToTensorInfo(type.get(), &tensor));
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  if (tensor) {
    size_t rank = 0;
    Check(Api().GetTensorElementType(tensor, &element));
    Check(Api().GetDimensionsCount(tensor, &rank));
    std::vector<int64_t> dims(rank);
    std::vector<const char*> symbols(rank);
    Check(Api().GetDimensions(tensor, dims.data(), rank));
    Check(Api().GetSymbolicDimensions(tensor, symbols.data(), rank));
    for (uint32_t i = 0; i < rank; ++i) {
      if (dims[i] >= 0) {
        shape.Set(i, static_cast<double>(dims[i]));
      } else {
        shape.Set(i, symbols[i]);
      }
    }
  }
  out.Set("type", static_cast<int>(element));
  out.Set("shape", shape);
  return out;
}

using CountOf = OrtStatusPtr(ORT_API_CALL*)(const OrtSession*, size_t*);
using NameOf = OrtStatusPtr(ORT_API_CALL*)(const OrtSession*, size_t, OrtAllocator*, char**);
using TypeOf = OrtStatusPtr(ORT_API_CALL*)(const OrtSession*, size_t, OrtTypeInfo**);

Napi::Array DescribeValues(Napi::Env env, const OrtSession* session, CountOf count_of, NameOf name_of, TypeOf type_of) {
  size_t count = 0;
  Check(count_of(session, &count));
  OrtAllocator* allocator = nullptr;
  Check(Api().GetAllocatorWithDefaultOptions(&allocator));
  auto out = Napi::Array::New(env, count);
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    OrtTypeInfo* type = nullptr;
    Check(type_of(session, i, &type));
    const TypeInfoPtr owned(type);
    Check(name_of(session, i, allocator, &name));
    out.Set(static_cast<uint32_t>(i), DescribeValue(env, name, owned));
  }
  return out;
}

/// Custom metadata of the model, as a list of [key, value].
Napi::Array DescribeMetadata(Napi::Env env, const OrtSession* session) {
  const OrtApi& api = Api();
  OrtModelMetadata* raw = nullptr;
  Check(api.SessionGetModelMetadata(session, &raw));
  const ModelMetadataPtr metadata(raw);
  OrtAllocator* allocator = nullptr;
  Check(api.GetAllocatorWithDefaultOptions(&allocator));
  char** keys = nullptr;
  int64_t count = 0;
  Check(api.ModelMetadataGetCustomMetadataMapKeys(metadata.get(), allocator, &keys, &count));
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(TakeString(keys[i]));
  if (keys) Check(api.AllocatorFree(allocator, keys));
  auto out = Napi::Array::New(env, names.size());
  for (uint32_t i = 0; i < names.size(); ++i) {
    char* value = nullptr;
    Check(api.ModelMetadataLookupCustomMetadataMap(metadata.get(), allocator, names[i].c_str(), &value));
    auto entry = Napi::Array::New(env, 2);
    entry.Set(0u, names[i]);
    entry.Set(1u, value ? TakeString(value) : std::string());
    out.Set(i, entry);
  }
  return out;
}

}  // namespace

Session::Session(std::shared_ptr<JsLoop> loop, int device_id)
    : loop_(std::move(loop)), device_id_(device_id), queue_(MaxThreads(device_id >= 0)) {
  loop_->Remember(this);
}

Session::~Session() {
  loop_->Forget(this);
  Stop();
}

void Session::Stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const auto& [id, options] : running_) Api().ReleaseStatus(Api().RunOptionsSetTerminate(options));
    if (loading_ && GetRuntime().api_version >= 22) {
      Api().ReleaseStatus(Api().SessionOptionsSetLoadCancellationFlag(loading_, true));
    }
  }
  queue_.CloseAndJoin();
}

std::shared_ptr<OrtSession> Session::Get() const {
  const std::lock_guard lock(mutex_);
  if (!session_) throw std::runtime_error("session: it was released, expected an open session.");
  return session_;
}

void Session::Set(std::shared_ptr<OrtSession> session) {
  {
    const std::lock_guard lock(mutex_);
    session_.swap(session);
  }
  // The former session is freed here, outside the lock.
}

void Session::Loading(OrtSessionOptions* options) {
  const std::lock_guard lock(mutex_);
  loading_ = options;
  if (stopping_ && options) {
    loading_ = nullptr;
    throw std::runtime_error("session: its thread is ending, expected to load while it lives.");
  }
}

void Session::Enter(uint32_t id, OrtRunOptions* options) {
  const std::lock_guard lock(mutex_);
  if (stopping_) throw std::runtime_error("session: its thread is ending, expected an open session.");
  running_.emplace(id, options);
}

void Session::Leave(uint32_t id) {
  const std::lock_guard lock(mutex_);
  running_.erase(id);
}

void Session::Terminate(uint32_t id) {
  const std::lock_guard lock(mutex_);
  if (const auto run = running_.find(id); run != running_.end()) Check(Api().RunOptionsSetTerminate(run->second));
}

std::shared_ptr<Session> SessionFromJs(Napi::Value handle) {
  if (!handle.IsExternal() || !handle.As<Napi::External<void>>().CheckTypeTag(&kSessionTag)) {
    throw Napi::TypeError::New(handle.Env(), "internal: not a session handle");
  }
  return *handle.As<Napi::External<std::shared_ptr<Session>>>().Data();
}

Napi::Value CreateSession(const Napi::CallbackInfo& info) {
  const auto options = info[1].As<Napi::Object>();
  const int device_id =
      options.Get("cuda").IsUndefined() ? -1 : options.Get("deviceId").As<Napi::Number>().Int32Value();
  auto session = std::make_shared<Session>(JsLoop::Of(info.Env()), device_id);
  return session->loop().Start(session->queue(), std::make_unique<LoadJob>(info.Env(), session, info[0], options));
}

Napi::Value DescribeSession(const Napi::CallbackInfo& info) {
  const auto session = SessionFromJs(info[0])->Get();
  const OrtApi& api = Api();
  auto out = Napi::Object::New(info.Env());
  out.Set("inputs", DescribeValues(info.Env(), session.get(), api.SessionGetInputCount, api.SessionGetInputName,
                                   api.SessionGetInputTypeInfo));
  out.Set("outputs", DescribeValues(info.Env(), session.get(), api.SessionGetOutputCount, api.SessionGetOutputName,
                                    api.SessionGetOutputTypeInfo));
  out.Set("metadata", DescribeMetadata(info.Env(), session.get()));
  return out;
}

Napi::Value ReleaseSession(const Napi::CallbackInfo& info) {
  auto session = SessionFromJs(info[0]);
  return session->loop().Start(session->queue(), std::make_unique<UnloadJob>(info.Env(), session));
}

Napi::Value EndProfiling(const Napi::CallbackInfo& info) {
  const auto session = SessionFromJs(info[0])->Get();
  OrtAllocator* allocator = nullptr;
  Check(Api().GetAllocatorWithDefaultOptions(&allocator));
  char* name = nullptr;
  Check(Api().SessionEndProfiling(session.get(), allocator, &name));
  return Napi::String::New(info.Env(), TakeString(name));
}

}  // namespace lowbit::host
