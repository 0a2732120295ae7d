// The bridge between session threads and one JavaScript thread (the main thread or a worker).
#pragma once

#include <napi.h>

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>

#include "task_queue.h"

namespace lowbit::host {

/// One asynchronous piece of work behind one promise. Created and destroyed on the JavaScript thread.
class Job {
 public:
  explicit Job(Napi::Env env) : deferred_(Napi::Promise::Deferred::New(env)) {}
  virtual ~Job() = default;
  /// On a session thread, without JavaScript. May throw std::exception.
  virtual void Execute() = 0;
  /// On the JavaScript thread after Execute succeeded: the promise's value. May throw Napi::Error or std::exception.
  virtual Napi::Value Resolve(Napi::Env env) = 0;

 private:
  friend class JsLoop;
  Napi::Promise::Deferred deferred_;
  std::string error_;
  bool failed_ = false;
};

/// Something with threads that must be stopped before its JavaScript thread, or the process, ends.
class Stoppable {
 public:
  virtual ~Stoppable() = default;
  /// Cuts short what is running, waits for all threads, and stays stopped. Idempotent.
  virtual void Stop() noexcept = 0;
};

/// Stops every owner of every loop, when the process is about to end. process.exit() runs no environment hooks, and
/// ORT's statics, many of them made while a model loads, are destroyed before any atexit handler that could be
/// registered here.
void StopEverything();

/// Shared by everything that starts jobs, because finalizers run in no certain order when an environment ends.
class JsLoop {
 public:
  /// The loop of this environment, created on first use.
  static std::shared_ptr<JsLoop> Of(Napi::Env env);

  /// Executes the job on the queue and settles its promise here. Keeps the event loop alive until then.
  Napi::Promise Start(TaskQueue& queue, std::unique_ptr<Job> job);

  /// Stops `owner` when this JavaScript thread or the process ends, unless forgotten before (by its destructor).
  void Remember(Stoppable* owner);
  void Forget(Stoppable* owner);

 private:
  explicit JsLoop(Napi::Env env);
  static void OnEnvironmentEnd(void* self);
  static void OnWakeUp(napi_env env, napi_value, void* self, void*);
  void Deliver(std::unique_ptr<Job> job);
  void Settle(Napi::Env env);

  Napi::Env env_;
  napi_threadsafe_function wake_ = nullptr;
  size_t pending_ = 0;  // JavaScript thread only
  std::mutex mutex_;
  std::deque<std::unique_ptr<Job>> done_;
  std::unordered_set<Stoppable*> owners_;  // JavaScript thread only
};

}  // namespace lowbit::host
