// The result of everything that can fail. Messages read "<where>: <found>, expected <allowed>. <What to do>".
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <sstream>
#include <string>

namespace lowbit {

class [[nodiscard]] Status {
 public:
  static Status Ok() { return Status(); }

  /// The parts are streamed into one message.
  template <class... Parts>
  static Status Error(OrtErrorCode code, const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    Status status;
    status.failure_ = std::make_unique<Failure>(Failure{code, text.str()});
    return status;
  }

  bool ok() const { return failure_ == nullptr; }
  OrtErrorCode code() const { return ok() ? ORT_OK : failure_->code; }
  const std::string& message() const { return failure_->message; }

 private:
  struct Failure {
    OrtErrorCode code;
    std::string message;
  };
  std::unique_ptr<Failure> failure_;
};

}  // namespace lowbit

/// Returns the failure of a Status expression to the caller.
#define LOWBIT_TRY(expression)                                    \
  do {                                                            \
    if (auto lowbit_status = (expression); !lowbit_status.ok()) { \
      return lowbit_status;                                       \
    }                                                             \
  } while (false)

/// Returns the failure of an ONNX Runtime call to the caller.
#define LOWBIT_ORT(call)                           \
  do {                                             \
    if (OrtStatus* lowbit_ort_status = (call)) {   \
      return ::lowbit::FromOrt(lowbit_ort_status); \
    }                                              \
  } while (false)

/// Returns an invalid-argument failure with the streamed message unless the condition holds.
#define LOWBIT_EXPECT(condition, ...)                                    \
  do {                                                                   \
    if (!(condition)) {                                                  \
      return ::lowbit::Status::Error(ORT_INVALID_ARGUMENT, __VA_ARGS__); \
    }                                                                    \
  } while (false)
