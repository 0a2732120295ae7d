// Tensors that stay on the device between runs.
#pragma once

#include <napi.h>

#include <memory>

#include "session.h"
#include "values.h"

namespace lowbit::host {

/// What a device tensor's JavaScript handle owns. Members are destroyed last to first: the memory goes before its
/// allocator.
struct DeviceTensor {
  std::shared_ptr<Session> owner;           // whose thread copies the memory
  std::shared_ptr<OrtAllocator> allocator;  // set when the memory came from allocate(); results keep theirs themselves
  SharedValue value;                        // null once disposed
};

/// The memory of `session`'s device: a CUDA device's, or plain memory for a CPU session (there the same calls can be
/// tested).
MemoryInfoPtr DeviceMemory(const Session& session);

/// The handle; V8 is told of the memory behind it, so that unreachable tensors are collected in time.
Napi::Value DeviceTensorToJs(Napi::Env env, DeviceTensor tensor);
/// Throws Napi::Error when the handle was disposed.
const DeviceTensor& DeviceTensorFromJs(Napi::Value handle);

/// allocate(session, type, dims) -> Promise<handle>: device memory, all zeros
Napi::Value AllocateDeviceTensor(const Napi::CallbackInfo& info);
/// upload(handle, bytes) -> Promise<void>: overwrites the tensor's memory, whose address stays (CUDA graphs need that)
Napi::Value UploadDeviceTensor(const Napi::CallbackInfo& info);
/// download(handle, offset, byteLength) -> Promise<ArrayBuffer>: a range of the tensor's bytes
Napi::Value DownloadDeviceTensor(const Napi::CallbackInfo& info);
/// dispose(handle): gives the memory back once no run uses it
void DisposeDeviceTensor(const Napi::CallbackInfo& info);

}  // namespace lowbit::host
