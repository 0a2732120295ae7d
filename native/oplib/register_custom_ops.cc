#include <deque>
#include <exception>
#include <mutex>

#include "native/core/custom_op.h"
#include "native/oplib/library.h"
#include "ops/register.h"

namespace lowbit {
namespace {

/// Sessions keep pointers to the domain and its operators and may outlive the options they were made from, so both live
/// as long as the library. ONNX Runtime unloads the library with the last session that uses it.
struct Domain {
  std::deque<CustomOp> ops;
  OrtCustomOpDomain* handle = nullptr;

  Status Make() {
    LOWBIT_ORT(Ort().CreateCustomOpDomain("lowbit", &handle));
    for (const OpDefinition* definition : AllOps()) {
      for (const Overload& overload : definition->overloads) {
        LOWBIT_ORT(Ort().CustomOpDomain_Add(handle, &ops.emplace_back(*definition, overload, false)));
#if LOWBIT_CUDA
        LOWBIT_ORT(Ort().CustomOpDomain_Add(handle, &ops.emplace_back(*definition, overload, true)));
#endif
      }
    }
    return Status::Ok();
  }
};

Status AddDomain(OrtSessionOptions* options, const OrtApiBase* base) {
  static std::mutex mutex;
  static Domain domain;
  const std::lock_guard lock(mutex);
  LOWBIT_TRY(UseOrtApi(base));
  if (domain.handle == nullptr) LOWBIT_TRY(domain.Make());
  return FromOrt(Ort().AddCustomOpDomain(options, domain.handle));
}

}  // namespace
}  // namespace lowbit

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  try {
    const lowbit::Status status = lowbit::AddDomain(options, base);
    if (status.ok()) return nullptr;
    // The host may be too old for the API that Ort() stands for; CreateStatus has been there since version 1.
    return base->GetApi(1)->CreateStatus(status.code(), status.message().c_str());
  } catch (const std::exception& error) {
    return base->GetApi(1)->CreateStatus(ORT_RUNTIME_EXCEPTION, error.what());
  }
}
