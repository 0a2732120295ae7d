// Tensors that stay on the device between runs.
#pragma once

#include <napi.h>

#include <memory>

#include "session.h"
#include "values.h"

namespace lowbit::host {

/// What a device tensor's JavaScript handle owns. `session` keeps the allocator's provider alive until the memory is
/// given back; members are destroyed last to first, so it goes last.
struct DeviceTensor {
  std::shared_ptr<Session> owner;  // whose thread touches the memory
  std::shared_ptr<OrtSession> session;
  std::shared_ptr<OrtAllocator> allocator;  // set when the memory came from allocate()
  SharedValue value;                        // null once disposed
};

/// The memory of `session`'s device: a CUDA device's, or plain memory for a CPU session (there the same calls can be
/// tested).
MemoryInfoPtr DeviceMemory(const Session& session);

Napi::Value DeviceTensorToJs(Napi::Env env, DeviceTensor tensor);
/// Throws Napi::Error when the handle was disposed.
const DeviceTensor& DeviceTensorFromJs(Napi::Value handle);

/// allocate(session, type, dims, bytes | null) -> Promise<handle>: device memory, filled with `bytes` or left as it is
Napi::Value AllocateDeviceTensor(const Napi::CallbackInfo& info);
/// download(handle) -> Promise<ArrayBuffer>
Napi::Value DownloadDeviceTensor(const Napi::CallbackInfo& info);
/// dispose(handle): gives the memory back once no run uses it
void DisposeDeviceTensor(const Napi::CallbackInfo& info);

}  // namespace lowbit::host
