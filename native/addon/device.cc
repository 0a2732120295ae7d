#include "device.h"

#include <cstring>
#include <utility>

#include "cuda_driver.h"

namespace lowbit::host {
namespace {

constexpr napi_type_tag kDeviceTensorTag = {0x6f72746c6f776269, 0x64657674656e7331};

void* DataOf(const SharedValue& value) {
  void* data = nullptr;
  Check(Api().GetTensorMutableData(value.get(), &data));
  return data;
}

class AllocateJob final : public Job {
 public:
  AllocateJob(Napi::Env env, std::shared_ptr<Session> owner, ONNXTensorElementDataType type, std::vector<int64_t> dims,
              Napi::Value bytes)
      : Job(env), owner_(std::move(owner)), type_(type), dims_(std::move(dims)) {
    if (!bytes.IsNull()) {
      const auto view = bytes.As<Napi::Uint8Array>();
      kept_ = Napi::Persistent(bytes.As<Napi::Object>());
      bytes_ = view.Data();
      byte_count_ = view.ByteLength();
    }
  }

  void Execute() override {
    tensor_.owner = owner_;
    tensor_.session = owner_->Get();
    const MemoryInfoPtr memory = DeviceMemory(*owner_);
    OrtAllocator* allocator = nullptr;
    Check(Api().CreateAllocator(tensor_.session.get(), memory.get(), &allocator));
    tensor_.allocator = AllocatorPtr(allocator);
    OrtValue* value = nullptr;
    Check(Api().CreateTensorAsOrtValue(allocator, dims_.data(), dims_.size(), type_, &value));
    tensor_.value = ValuePtr(value);
    if (byte_count_ == 0) return;
    if (owner_->on_device()) {
      CopyToDevice(owner_->device_id(), DataOf(tensor_.value), bytes_, byte_count_);
    } else {
      std::memcpy(DataOf(tensor_.value), bytes_, byte_count_);
    }
  }

  Napi::Value Resolve(Napi::Env env) override { return DeviceTensorToJs(env, std::move(tensor_)); }

 private:
  const std::shared_ptr<Session> owner_;
  const ONNXTensorElementDataType type_;
  const std::vector<int64_t> dims_;
  Napi::ObjectReference kept_;
  const void* bytes_ = nullptr;
  size_t byte_count_ = 0;
  DeviceTensor tensor_;
};

class DownloadJob final : public Job {
 public:
  DownloadJob(Napi::Env env, const DeviceTensor& tensor) : Job(env), owner_(tensor.owner), tensor_(tensor) {
    byte_count_ = FactsOf(tensor_.value.get()).byte_count;
    auto buffer = Napi::ArrayBuffer::New(env, byte_count_);
    to_ = buffer.Data();
    buffer_ = Napi::Persistent(buffer.As<Napi::Object>());
  }

  void Execute() override {
    if (byte_count_ == 0) return;
    if (owner_->on_device()) {
      CopyFromDevice(owner_->device_id(), to_, DataOf(tensor_.value), byte_count_);
    } else {
      std::memcpy(to_, DataOf(tensor_.value), byte_count_);
    }
  }

  Napi::Value Resolve(Napi::Env) override { return buffer_.Value(); }

 private:
  const std::shared_ptr<Session> owner_;
  const DeviceTensor tensor_;
  size_t byte_count_ = 0;
  void* to_ = nullptr;
  Napi::ObjectReference buffer_;
};

DeviceTensor& Held(Napi::Value handle) {
  if (!handle.IsExternal() || !handle.As<Napi::External<void>>().CheckTypeTag(&kDeviceTensorTag)) {
    throw Napi::TypeError::New(handle.Env(),
                               "tensor: its gpuBuffer is not one of ours, expected a tensor from ort-lowbit.");
  }
  return *handle.As<Napi::External<DeviceTensor>>().Data();
}

}  // namespace

MemoryInfoPtr DeviceMemory(const Session& session) {
  OrtMemoryInfo* memory = nullptr;
  Check(session.on_device()
            ? Api().CreateMemoryInfo("Cuda", OrtDeviceAllocator, session.device_id(), OrtMemTypeDefault, &memory)
            : Api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
  return MemoryInfoPtr(memory);
}

Napi::Value DeviceTensorToJs(Napi::Env env, DeviceTensor tensor) {
  auto handle = Napi::External<DeviceTensor>::New(env, new DeviceTensor(std::move(tensor)),
                                                  [](Napi::Env, DeviceTensor* held) { delete held; });
  handle.TypeTag(&kDeviceTensorTag);
  return handle;
}

const DeviceTensor& DeviceTensorFromJs(Napi::Value handle) {
  const DeviceTensor& tensor = Held(handle);
  if (!tensor.value) throw Napi::Error::New(handle.Env(), "tensor: it was disposed, expected a live device tensor.");
  return tensor;
}

Napi::Value AllocateDeviceTensor(const Napi::CallbackInfo& info) {
  auto owner = SessionFromJs(info[0]);
  const auto type = static_cast<ONNXTensorElementDataType>(info[1].As<Napi::Number>().Int32Value());
  auto job = std::make_unique<AllocateJob>(info.Env(), owner, type, DimsFromJs(info[2]), info[3]);
  return owner->loop().Start(owner->queue(), std::move(job));
}

Napi::Value DownloadDeviceTensor(const Napi::CallbackInfo& info) {
  const DeviceTensor& tensor = DeviceTensorFromJs(info[0]);
  // A session thread, not libuv's: the copy waits for the device.
  return tensor.owner->loop().Start(tensor.owner->queue(), std::make_unique<DownloadJob>(info.Env(), tensor));
}

void DisposeDeviceTensor(const Napi::CallbackInfo& info) { Held(info[0]) = DeviceTensor(); }

}  // namespace lowbit::host
