#include "native/core/ort_api.h"

#include <cstdlib>
#include <string>

namespace lowbit {
namespace {

const OrtApi* ort_api = nullptr;

/// "1.29.0" -> 29, the API version that release brought.
uint32_t ApiOfRelease(const char* release) {
  char* end = nullptr;
  if (std::strtoul(release, &end, 10) != 1 || *end != '.') return kNewestApi;
  return static_cast<uint32_t>(std::strtoul(end + 1, nullptr, 10));
}

}  // namespace

Status UseOrtApi(const OrtApiBase* base) {
  const char* release = base->GetVersionString();
  const uint32_t offered = ApiOfRelease(release);
  // Asked only for what the host has: GetApi writes to stderr otherwise.
  const uint32_t wanted = offered < kNewestApi ? offered : kNewestApi;
  const OrtApi* api = wanted < kOldestApi ? nullptr : base->GetApi(wanted);
  if (api == nullptr) {
    return Status::Error(ORT_FAIL, "ort_lowbit: the host is onnxruntime ", release, ", expected API version ",
                         kOldestApi, " or newer. Update onnxruntime to 1.24 or newer.");
  }
  ort_api = api;
  return Status::Ok();
}

const OrtApi& Ort() { return *ort_api; }

Status FromOrt(OrtStatus* status) {
  if (status == nullptr) return Status::Ok();
  Status result = Status::Error(Ort().GetErrorCode(status), Ort().GetErrorMessage(status));
  Ort().ReleaseStatus(status);
  return result;
}

OrtStatus* ToOrt(const Status& status) {
  return status.ok() ? nullptr : Ort().CreateStatus(status.code(), status.message().c_str());
}

}  // namespace lowbit
