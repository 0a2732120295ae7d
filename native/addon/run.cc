#include "run.h"

#include <string>
#include <utility>
#include <vector>

#include "device.h"
#include "session.h"
#include "values.h"

namespace lowbit::host {
namespace {

std::vector<std::string> ReadStrings(Napi::Value value) {
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> out;
  for (uint32_t i = 0; i < array.Length(); ++i) out.push_back(array.Get(i).As<Napi::String>());
  return out;
}

std::vector<const char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<const char*> out;
  for (const auto& text : texts) out.push_back(text.c_str());
  return out;
}

RunOptionsPtr ReadRunOptions(Napi::Object options) {
  const OrtApi& api = Api();
  OrtRunOptions* raw = nullptr;
  Check(api.CreateRunOptions(&raw));
  RunOptionsPtr out(raw);
  const auto number = [&](const char* name) { return options.Get(name).As<Napi::Number>().Int32Value(); };
  if (options.Has("logSeverityLevel")) Check(api.RunOptionsSetRunLogSeverityLevel(raw, number("logSeverityLevel")));
  if (options.Has("logVerbosityLevel")) Check(api.RunOptionsSetRunLogVerbosityLevel(raw, number("logVerbosityLevel")));
  if (options.Has("tag"))
    Check(api.RunOptionsSetRunTag(raw, options.Get("tag").As<Napi::String>().Utf8Value().c_str()));
  if (options.Get("terminate").ToBoolean()) Check(api.RunOptionsSetTerminate(raw));
  const auto config = options.Get("config").As<Napi::Array>();
  for (uint32_t i = 0; i < config.Length(); ++i) {
    const auto entry = ReadStrings(config.Get(i));
    Check(api.AddRunConfigEntry(raw, entry.at(0).c_str(), entry.at(1).c_str()));
  }
  return out;
}

/// Where one output goes.
struct Fetch {
  SharedValue given;       // filled in place when set
  bool on_device = false;  // otherwise: stays on the device
};

class RunJob final : public Job {
 public:
  explicit RunJob(const Napi::CallbackInfo& info) : Job(info.Env()), session_(SessionFromJs(info[0])) {
    id_ = info[1].As<Napi::Number>().Uint32Value();
    input_names_ = ReadStrings(info[2]);
    output_names_ = ReadStrings(info[4]);
    kept_ = Napi::Persistent(Napi::Array::New(info.Env()));
    kept_.Value().Set(0u, info[3]);
    kept_.Value().Set(1u, info[5]);
    const auto inputs = info[3].As<Napi::Array>();
    for (uint32_t i = 0; i < inputs.Length(); ++i) inputs_.push_back(ValueFromJs(inputs.Get(i)));
    const auto outputs = info[5].As<Napi::Array>();
    for (uint32_t i = 0; i < outputs.Length(); ++i) {
      const Napi::Value output = outputs.Get(i);
      Fetch fetch;
      if (output.IsObject() || output.IsExternal()) fetch.given = ValueFromJs(output);
      fetch.on_device = output.IsBoolean();
      needs_binding_ = needs_binding_ || fetch.on_device || (fetch.given && session_->on_device());
      fetches_.push_back(std::move(fetch));
    }
    options_ = ReadRunOptions(info[6].As<Napi::Object>());
    session_->Enter(id_, options_.get());
  }

  ~RunJob() override { session_->Leave(id_); }

  Session& session() { return *session_; }

  void Execute() override {
    ort_session_ = session_->Get();
    if (needs_binding_) {
      ExecuteBound();
    } else {
      ExecutePlain();
    }
  }

  Napi::Value Resolve(Napi::Env env) override {
    auto out = Napi::Array::New(env, fetches_.size());
    std::vector<SharedValue> taken = inputs_;
    for (uint32_t i = 0; i < fetches_.size(); ++i) {
      const Napi::HandleScope scope(env);
      if (fetches_[i].given) {
        out.Set(i, env.Null());
      } else if (fetches_[i].on_device) {
        out.Set(i, DeviceValueToJs(env, results_[i]));
      } else {
        out.Set(i, ValueToJs(env, results_[i], taken));
        if (FactsOf(results_[i].get()).byte_count) taken.push_back(results_[i]);
      }
    }
    return out;
  }

 private:
  void ExecutePlain() {
    const auto input_names = Pointers(input_names_), output_names = Pointers(output_names_);
    std::vector<const OrtValue*> inputs;
    std::vector<OrtValue*> outputs;
    for (const auto& input : inputs_) inputs.push_back(input.get());
    for (const auto& fetch : fetches_) outputs.push_back(fetch.given.get());
    OrtStatus* status = Api().Run(ort_session_.get(), options_.get(), input_names.data(), inputs.data(), inputs.size(),
                                  output_names.data(), output_names.size(), outputs.data());
    for (size_t i = 0; i < outputs.size(); ++i) {
      results_.push_back(fetches_[i].given || !outputs[i] ? fetches_[i].given : SharedValue(ValuePtr(outputs[i])));
    }
    Check(status);
  }

  void ExecuteBound() {
    const OrtApi& api = Api();
    OrtIoBinding* raw = nullptr;
    Check(api.CreateIoBinding(ort_session_.get(), &raw));
    const IoBindingPtr binding(raw);
    const MemoryInfoPtr device = DeviceMemory(*session_);
    OrtMemoryInfo* cpu_raw = nullptr;
    Check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &cpu_raw));
    const MemoryInfoPtr cpu(cpu_raw);
    for (size_t i = 0; i < inputs_.size(); ++i) Check(api.BindInput(raw, input_names_[i].c_str(), inputs_[i].get()));
    for (size_t i = 0; i < fetches_.size(); ++i) {
      const char* name = output_names_[i].c_str();
      Check(fetches_[i].given ? api.BindOutput(raw, name, fetches_[i].given.get())
                              : api.BindOutputToDevice(raw, name, (fetches_[i].on_device ? device : cpu).get()));
    }
    Check(api.SynchronizeBoundInputs(raw));
    Check(api.RunWithBinding(ort_session_.get(), options_.get(), raw));
    Check(api.SynchronizeBoundOutputs(raw));
    OrtAllocator* allocator = nullptr;
    Check(api.GetAllocatorWithDefaultOptions(&allocator));
    OrtValue** values = nullptr;
    size_t count = 0;
    Check(api.GetBoundOutputValues(raw, allocator, &values, &count));
    for (size_t i = 0; i < count; ++i) results_.push_back(ValuePtr(values[i]));
    Check(api.AllocatorFree(allocator, values));
  }

  Napi::Object DeviceValueToJs(Napi::Env env, const SharedValue& value) {
    const TensorFacts facts = FactsOf(value.get());
    auto out = Napi::Object::New(env);
    out.Set("type", static_cast<int>(facts.type));
    out.Set("dims", DimsToJs(env, facts.dims));
    out.Set("byteLength", static_cast<double>(facts.byte_count));
    out.Set("data", DeviceTensorToJs(env, {session_, nullptr, value}));
    return out;
  }

  const std::shared_ptr<Session> session_;
  std::shared_ptr<OrtSession> ort_session_;
  uint32_t id_ = 0;
  std::vector<std::string> input_names_, output_names_;
  Napi::Reference<Napi::Array> kept_;  // the typed arrays under inputs_ and fetches_
  std::vector<SharedValue> inputs_;
  std::vector<Fetch> fetches_;
  RunOptionsPtr options_;
  bool needs_binding_ = false;
  std::vector<SharedValue> results_;
};

}  // namespace

Napi::Value Run(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<RunJob>(info);
  Session& session = job->session();
  return session.loop().Start(session.queue(), std::move(job));
}

void TerminateRun(const Napi::CallbackInfo& info) {
  SessionFromJs(info[0])->Terminate(info[1].As<Napi::Number>().Uint32Value());
}

}  // namespace lowbit::host
