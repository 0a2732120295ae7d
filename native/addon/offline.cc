#include "offline.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "js_loop.h"
#include "native/offline/gptq.h"
#include "native/offline/low_rank.h"
#include "native/offline/quadratic_form.h"
#include "task_queue.h"

namespace lowbit::host {
namespace {

using offline::ClipSearch;
using offline::GptqResult;
using offline::GptqSpec;
using offline::Grid;
using offline::ScaleConstraint;
using offline::ScaleRound;
using offline::ScaleRule;

/// The thread of one call, stopped when its environment ends.
class OfflineThread final : public Stoppable {
 public:
  explicit OfflineThread(std::shared_ptr<JsLoop> loop) : loop_(std::move(loop)) { loop_->Remember(this); }
  ~OfflineThread() override {
    loop_->Forget(this);
    Stop();
  }
  void Stop() noexcept override {
    cancel_ = true;
    queue_.CloseAndJoin();
  }
  TaskQueue& queue() { return queue_; }
  const std::atomic<bool>& cancel() const { return cancel_; }

 private:
  const std::shared_ptr<JsLoop> loop_;
  std::atomic<bool> cancel_ = false;
  TaskQueue queue_{1};
};

Grid GridOf(const std::string& name) {
  if (name == "s4") return Grid::kS4;
  if (name == "s8") return Grid::kS8;
  if (name == "e2m1") return Grid::kE2M1;
  if (name == "e3m0") return Grid::kE3M0;
  if (name == "bnb_fp4") return Grid::kBnbFp4;
  if (name == "e4m3") return Grid::kE4M3;
  throw std::invalid_argument("gptq: grid is \"" + name + "\", expected one of s4, s8, e2m1, e3m0, bnb_fp4, e4m3.");
}

ScaleRule ScaleRuleOf(Napi::Object js) {
  const auto word = [&](const char* name, const char* fallback) {
    const Napi::Value value = js.Get(name);
    return value.IsUndefined() ? std::string(fallback) : value.As<Napi::String>().Utf8Value();
  };
  const std::string constraint = word("scaleConstraint", "none"), round = word("scaleRound", "best");
  return {constraint == "m1"   ? ScaleConstraint::kM1
          : constraint == "m2" ? ScaleConstraint::kM2
                               : ScaleConstraint::kNone,
          round == "ceil"    ? ScaleRound::kCeil
          : round == "floor" ? ScaleRound::kFloor
                             : ScaleRound::kBest};
}

ClipSearch ClipSearchOf(Napi::Object js) {
  const Napi::Value search = js.Get("clipSearch");
  const std::string name = search.IsString() ? search.As<Napi::String>().Utf8Value() : "none";
  return name == "mse" ? ClipSearch::kMse : name == "hessian" ? ClipSearch::kHessian : ClipSearch::kNone;
}

GptqSpec SpecFromJs(Napi::Object js) {
  const auto integer = [&](const char* name) { return js.Get(name).As<Napi::Number>().Int64Value(); };
  const auto real = [&](const char* name) { return js.Get(name).As<Napi::Number>().DoubleValue(); };
  GptqSpec spec;
  spec.rows = integer("rows");
  spec.cols = integer("cols");
  spec.outlier_channels = integer("outlierChannels");
  spec.group_size = integer("groupSize");
  spec.channel_group = integer("channelGroup");
  spec.grid = GridOf(js.Get("grid").As<Napi::String>());
  spec.scale_rule = ScaleRuleOf(js);
  spec.range_max = static_cast<float>(real("rangeMax"));
  spec.clip = static_cast<float>(real("clip"));
  spec.clip_search = ClipSearchOf(js);
  spec.percdamp = real("percdamp");
  spec.body_descending = js.Get("bodyDescending").As<Napi::Boolean>();
  spec.threads = static_cast<int>(integer("threads"));
  return spec;
}

class GptqJob final : public Job {
 public:
  GptqJob(Napi::Env env, std::shared_ptr<OfflineThread> thread, Napi::Float32Array weights, Napi::Float32Array hessian,
          GptqSpec spec)
      : Job(env), thread_(std::move(thread)), spec_(spec), weights_(weights.Data()), hessian_(hessian.Data()) {
    kept_ = Napi::Persistent(Napi::Array::New(env));
    kept_.Value().Set(0u, weights);
    kept_.Value().Set(1u, hessian);
    const int64_t body = spec.cols - spec.outlier_channels;
    codes_.resize(spec.rows * spec.cols);
    scales_.resize(spec.rows * (spec.group_size ? body / spec.group_size : 1));
    outlier_scales_.resize(spec.outlier_channels ? spec.rows : 0);
  }

  void Execute() override {
    result_ = offline::Gptq(spec_, weights_, hessian_, codes_.data(), scales_.data(), outlier_scales_.data(), nullptr,
                            &thread_->cancel());
    if (!result_.error.empty()) throw std::runtime_error("gptq: " + result_.error + ".");
  }

  Napi::Value Resolve(Napi::Env env) override {
    auto out = Napi::Object::New(env);
    auto codes = Napi::Int8Array::New(env, codes_.size());
    std::copy(codes_.begin(), codes_.end(), codes.Data());
    out.Set("codes", codes);
    out.Set("scales", Halves(env, scales_));
    out.Set("outlierScales", Halves(env, outlier_scales_));
    out.Set("loss", result_.loss);
    out.Set("damping", result_.damping);
    return out;
  }

 private:
  static Napi::Uint16Array Halves(Napi::Env env, const std::vector<uint16_t>& from) {
    auto out = Napi::Uint16Array::New(env, from.size());
    std::copy(from.begin(), from.end(), out.Data());
    return out;
  }

  const std::shared_ptr<OfflineThread> thread_;
  const GptqSpec spec_;
  float* const weights_;
  float* const hessian_;
  Napi::Reference<Napi::Array> kept_;  // the arrays that the thread works on
  std::vector<int8_t> codes_;
  std::vector<uint16_t> scales_, outlier_scales_;
  GptqResult result_;
};

class QuadraticFormJob final : public Job {
 public:
  QuadraticFormJob(Napi::Env env, std::shared_ptr<OfflineThread> thread, Napi::Float32Array rows,
                   Napi::Float32Array matrix, int64_t cols, int threads)
      : Job(env),
        thread_(std::move(thread)),
        rows_(rows.Data()),
        matrix_(matrix.Data()),
        count_(rows.ElementLength() / cols),
        cols_(cols),
        threads_(threads) {
    kept_ = Napi::Persistent(Napi::Array::New(env));
    kept_.Value().Set(0u, rows);
    kept_.Value().Set(1u, matrix);
  }

  void Execute() override { result_ = offline::QuadraticForm(rows_, matrix_, count_, cols_, threads_); }
  Napi::Value Resolve(Napi::Env env) override { return Napi::Number::New(env, result_); }

 private:
  const std::shared_ptr<OfflineThread> thread_;
  const float* const rows_;
  const float* const matrix_;
  const int64_t count_, cols_;
  const int threads_;
  Napi::Reference<Napi::Array> kept_;  // the arrays that the thread works on
  double result_ = 0.0;
};

class LowRankJob final : public Job {
 public:
  LowRankJob(Napi::Env env, std::shared_ptr<OfflineThread> thread, Napi::Float32Array matrix,
             const offline::LowRankSpec& spec)
      : Job(env),
        thread_(std::move(thread)),
        spec_(spec),
        matrix_(matrix.Data()),
        kept_(Napi::Persistent(matrix)),
        up_(spec.rows * spec.rank),
        down_(spec.rank * spec.cols) {}

  void Execute() override { offline::LowRank(spec_, matrix_, up_.data(), down_.data(), &thread_->cancel()); }

  Napi::Value Resolve(Napi::Env env) override {
    auto out = Napi::Object::New(env);
    const auto floats = [&](const std::vector<float>& from) {
      auto array = Napi::Float32Array::New(env, from.size());
      std::copy(from.begin(), from.end(), array.Data());
      return array;
    };
    out.Set("up", floats(up_));
    out.Set("down", floats(down_));
    return out;
  }

 private:
  const std::shared_ptr<OfflineThread> thread_;
  const offline::LowRankSpec spec_;
  const float* const matrix_;
  Napi::Reference<Napi::Float32Array> kept_;  // the array that the thread reads
  std::vector<float> up_, down_;
};

}  // namespace

Napi::Value OfflineLowRank(const Napi::CallbackInfo& info) {
  const auto loop = JsLoop::Of(info.Env());
  auto thread = std::make_shared<OfflineThread>(loop);
  const auto integer = [&](size_t index) { return info[index].As<Napi::Number>().Int64Value(); };
  return loop->Start(thread->queue(),
                     std::make_unique<LowRankJob>(
                         info.Env(), thread, info[0].As<Napi::Float32Array>(),
                         offline::LowRankSpec{integer(1), integer(2), integer(3), static_cast<int>(integer(4))}));
}

Napi::Value OfflineQuadraticForm(const Napi::CallbackInfo& info) {
  const auto loop = JsLoop::Of(info.Env());
  auto thread = std::make_shared<OfflineThread>(loop);
  return loop->Start(thread->queue(),
                     std::make_unique<QuadraticFormJob>(
                         info.Env(), thread, info[0].As<Napi::Float32Array>(), info[1].As<Napi::Float32Array>(),
                         info[2].As<Napi::Number>().Int64Value(), info[3].As<Napi::Number>().Int32Value()));
}

Napi::Value GptqRound(const Napi::CallbackInfo& info) {
  const auto loop = JsLoop::Of(info.Env());
  auto thread = std::make_shared<OfflineThread>(loop);
  return loop->Start(thread->queue(), std::make_unique<GptqJob>(info.Env(), thread, info[0].As<Napi::Float32Array>(),
                                                                info[1].As<Napi::Float32Array>(),
                                                                SpecFromJs(info[2].As<Napi::Object>())));
}

}  // namespace lowbit::host
