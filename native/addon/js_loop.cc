#include "js_loop.h"

#include <atomic>
#include <utility>

namespace lowbit::host {
namespace {

std::mutex g_all_mutex;
std::unordered_set<Stoppable*> g_all;
std::atomic<bool> g_exiting{false};

}  // namespace

void StopEverything() {
  g_exiting.store(true);
  const std::lock_guard lock(g_all_mutex);
  for (Stoppable* owner : g_all) owner->Stop();
}

std::shared_ptr<JsLoop> JsLoop::Of(Napi::Env env) {
  auto* loop = env.GetInstanceData<std::shared_ptr<JsLoop>>();
  if (!loop) {
    loop = new std::shared_ptr<JsLoop>(new JsLoop(env));
    env.SetInstanceData(loop);
  }
  return *loop;
}

JsLoop::JsLoop(Napi::Env env) : env_(env) {
  const auto name = Napi::String::New(env, "ort-lowbit");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, OnWakeUp, &wake_) !=
      napi_ok) {
    throw Napi::Error::New(env, "internal: no thread-safe function");
  }
  napi_unref_threadsafe_function(env, wake_);
  // Hooks run last in, first out: this one before the thread-safe function's own.
  napi_add_env_cleanup_hook(env, OnEnvironmentEnd, this);
}

Napi::Promise JsLoop::Start(TaskQueue& queue, std::unique_ptr<Job> job) {
  Napi::Promise promise = job->deferred_.Promise();
  auto* raw = job.release();
  const bool taken = queue.Push([this, raw] {
    try {
      raw->Execute();
    } catch (const std::exception& error) {
      raw->failed_ = true;
      raw->error_ = error.what();
    }
    Deliver(std::unique_ptr<Job>(raw));
  });
  if (!taken) {
    const std::unique_ptr<Job> refused(raw);
    refused->deferred_.Reject(Napi::Error::New(env_, "session: it was released, expected an open session.").Value());
    return promise;
  }
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, wake_);
  return promise;
}

void JsLoop::Deliver(std::unique_ptr<Job> job) {
  if (g_exiting.load()) {
    job.release();  // the process is ending: JavaScript will not run again to free it
    return;
  }
  const std::lock_guard lock(mutex_);
  done_.push_back(std::move(job));
  napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

void JsLoop::OnWakeUp(napi_env env, napi_value, void* self, void*) {
  if (env) static_cast<JsLoop*>(self)->Settle(env);
}

void JsLoop::Settle(Napi::Env env) {
  std::deque<std::unique_ptr<Job>> done;
  {
    const std::lock_guard lock(mutex_);
    done.swap(done_);
  }
  for (auto& job : done) {
    const Napi::HandleScope scope(env);
    if (--pending_ == 0) napi_unref_threadsafe_function(env, wake_);
    if (job->failed_) {
      job->deferred_.Reject(Napi::Error::New(env, job->error_).Value());
      continue;
    }
    try {
      job->deferred_.Resolve(job->Resolve(env));
    } catch (const Napi::Error& error) {
      job->deferred_.Reject(error.Value());
    } catch (const std::exception& error) {
      job->deferred_.Reject(Napi::Error::New(env, error.what()).Value());
    }
  }
}

void JsLoop::Remember(Stoppable* owner) {
  owners_.insert(owner);
  const std::lock_guard lock(g_all_mutex);
  g_all.insert(owner);
}

void JsLoop::Forget(Stoppable* owner) {
  owners_.erase(owner);
  const std::lock_guard lock(g_all_mutex);
  g_all.erase(owner);
}

void JsLoop::OnEnvironmentEnd(void* self) {
  auto& loop = *static_cast<JsLoop*>(self);
  for (Stoppable* owner : loop.owners_) owner->Stop();
  loop.done_.clear();  // no thread is left to add to it; the promises end with the environment
}

}  // namespace lowbit::host
