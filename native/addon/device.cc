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

void Upload(const Session& owner, void* to, const void* from, size_t byte_count) {
  if (byte_count == 0) return;
  if (owner.on_device()) {
    CopyToDevice(owner.device_id(), to, from, byte_count);
  } else {
    std::memcpy(to, from, byte_count);
  }
}

void Clear(const Session& owner, const SharedValue& value) {
  const size_t byte_count = FactsOf(value.get()).byte_count;
  if (byte_count == 0) return;
  if (owner.on_device()) {
    ZeroOnDevice(owner.device_id(), DataOf(value), byte_count);
  } else {
    std::memset(DataOf(value), 0, byte_count);
  }
}

class AllocateJob final : public Job {
 public:
  AllocateJob(Napi::Env env, std::shared_ptr<Session> owner, ONNXTensorElementDataType type, std::vector<int64_t> dims)
      : Job(env), type_(type), dims_(std::move(dims)) {
    tensor_.owner = std::move(owner);
  }

  void Execute() override {
    const auto session = tensor_.owner->Get();
    const MemoryInfoPtr memory = DeviceMemory(*tensor_.owner);
    OrtAllocator* allocator = nullptr;
    Check(Api().CreateAllocator(session.get(), memory.get(), &allocator));
    tensor_.allocator = AllocatorPtr(allocator);
    OrtValue* value = nullptr;
    Check(Api().CreateTensorAsOrtValue(allocator, dims_.data(), dims_.size(), type_, &value));
    tensor_.value = ValuePtr(value);
    Clear(*tensor_.owner, tensor_.value);
  }

  Napi::Value Resolve(Napi::Env env) override { return DeviceTensorToJs(env, std::move(tensor_)); }

 private:
  const ONNXTensorElementDataType type_;
  const std::vector<int64_t> dims_;
  DeviceTensor tensor_;
};

class UploadJob final : public Job {
 public:
  UploadJob(Napi::Env env, const DeviceTensor& tensor, Napi::Uint8Array bytes)
      : Job(env), tensor_(tensor), from_(bytes.Data()), byte_count_(bytes.ByteLength()) {
    kept_ = Napi::Persistent(bytes.As<Napi::Object>());
    const size_t expected = FactsOf(tensor_.value.get()).byte_count;
    if (byte_count_ != expected) {
      throw std::runtime_error("upload: " + std::to_string(byte_count_) + " bytes, expected the tensor's " +
                               std::to_string(expected) + ".");
    }
  }

  void Execute() override { Upload(*tensor_.owner, DataOf(tensor_.value), from_, byte_count_); }
  Napi::Value Resolve(Napi::Env env) override { return env.Undefined(); }

 private:
  const DeviceTensor tensor_;
  Napi::ObjectReference kept_;
  const void* const from_;
  const size_t byte_count_;
};

class DownloadJob final : public Job {
 public:
  DownloadJob(Napi::Env env, const DeviceTensor& tensor, size_t offset, size_t byte_count)
      : Job(env), tensor_(tensor), offset_(offset), byte_count_(byte_count) {
    const size_t all = FactsOf(tensor_.value.get()).byte_count;
    if (offset > all || byte_count > all - offset) {
      throw std::runtime_error("download: bytes " + std::to_string(offset) + " … " +
                               std::to_string(offset + byte_count) + ", expected a range within the tensor's " +
                               std::to_string(all) + ".");
    }
    auto buffer = Napi::ArrayBuffer::New(env, byte_count_);
    to_ = buffer.Data();
    buffer_ = Napi::Persistent(buffer.As<Napi::Object>());
  }

  void Execute() override {
    if (byte_count_ == 0) return;
    const char* from = static_cast<const char*>(DataOf(tensor_.value)) + offset_;
    if (tensor_.owner->on_device()) {
      CopyFromDevice(tensor_.owner->device_id(), to_, from, byte_count_);
    } else {
      std::memcpy(to_, from, byte_count_);
    }
  }

  Napi::Value Resolve(Napi::Env) override { return buffer_.Value(); }

 private:
  const DeviceTensor tensor_;
  const size_t offset_, byte_count_;
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

/// Tells V8 that the memory came (1) or went (-1).
void Account(Napi::Env env, const DeviceTensor& tensor, int sign) {
  if (!tensor.value) return;
  const auto byte_count = static_cast<int64_t>(FactsOf(tensor.value.get()).byte_count);
  Napi::MemoryManagement::AdjustExternalMemory(env, sign * byte_count);
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
  Account(env, tensor, 1);
  auto handle = Napi::External<DeviceTensor>::New(env, new DeviceTensor(std::move(tensor)),
                                                  [](Napi::Env env, DeviceTensor* held) {
                                                    Account(env, *held, -1);
                                                    delete held;
                                                  });
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
  auto job = std::make_unique<AllocateJob>(info.Env(), owner, type, DimsFromJs(info[2]));
  return owner->loop().Start(owner->queue(), std::move(job));
}

Napi::Value UploadDeviceTensor(const Napi::CallbackInfo& info) {
  const DeviceTensor& tensor = DeviceTensorFromJs(info[0]);
  auto job = std::make_unique<UploadJob>(info.Env(), tensor, info[1].As<Napi::Uint8Array>());
  return tensor.owner->loop().Start(tensor.owner->queue(), std::move(job));
}

Napi::Value DownloadDeviceTensor(const Napi::CallbackInfo& info) {
  const DeviceTensor& tensor = DeviceTensorFromJs(info[0]);
  const auto number = [&](size_t i) { return static_cast<size_t>(info[i].As<Napi::Number>().Int64Value()); };
  auto job = std::make_unique<DownloadJob>(info.Env(), tensor, number(1), number(2));
  return tensor.owner->loop().Start(tensor.owner->queue(), std::move(job));
}

void DisposeDeviceTensor(const Napi::CallbackInfo& info) {
  DeviceTensor& tensor = Held(info[0]);
  Account(info.Env(), tensor, -1);
  tensor = DeviceTensor();
}

}  // namespace lowbit::host
