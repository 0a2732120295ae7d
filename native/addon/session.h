// One model: its ORT session, its threads and the runs in flight.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "js_loop.h"
#include "runtime.h"

namespace lowbit::host {

class Session : public Stoppable {
 public:
  /// `device_id` < 0: CPU only. Otherwise the session runs on that CUDA device, on a single thread (see task_queue.h).
  Session(std::shared_ptr<JsLoop> loop, int device_id);
  ~Session() override;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void Stop() noexcept override;

  /// The loaded model, shared with every run and device tensor that needs it. Throws when it was released.
  std::shared_ptr<OrtSession> Get() const;
  void Set(std::shared_ptr<OrtSession> session);

  /// Makes the load known while it lasts, so that Stop can cancel it; null when it is over. Throws when stopping.
  void Loading(OrtSessionOptions* options);

  bool on_device() const { return device_id_ >= 0; }
  int device_id() const { return device_id_; }
  TaskQueue& queue() { return queue_; }
  JsLoop& loop() { return *loop_; }

  /// Makes a run in flight known by its id until Leave. Throws when the session is stopping.
  void Enter(uint32_t id, OrtRunOptions* options);
  void Leave(uint32_t id);
  /// Asks the run to end at its next node; nothing happens when it is already over.
  void Terminate(uint32_t id);

 private:
  const std::shared_ptr<JsLoop> loop_;
  const int device_id_;
  mutable std::mutex mutex_;
  std::shared_ptr<OrtSession> session_;
  std::unordered_map<uint32_t, OrtRunOptions*> running_;
  OrtSessionOptions* loading_ = nullptr;
  bool stopping_ = false;
  TaskQueue queue_;  // last: its threads use the members above
};

std::shared_ptr<Session> SessionFromJs(Napi::Value handle);

/// createSession(path | bytes, options) -> Promise<handle>
Napi::Value CreateSession(const Napi::CallbackInfo& info);
/// describeSession(handle) -> {inputs, outputs}: {name, type, shape}[]; type 0 is what is no tensor; shape: number |
/// string
Napi::Value DescribeSession(const Napi::CallbackInfo& info);
/// release(handle) -> Promise<void>; no run of the session may be in flight
Napi::Value ReleaseSession(const Napi::CallbackInfo& info);
/// endProfiling(handle) -> file name
Napi::Value EndProfiling(const Napi::CallbackInfo& info);

}  // namespace lowbit::host
