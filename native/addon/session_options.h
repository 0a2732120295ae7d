// Session options as plain data: read on the JavaScript thread, applied on a session thread.
#pragma once

#include <napi.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime.h"

namespace lowbit::host {

using KeyValues = std::vector<std::pair<std::string, std::string>>;

struct SessionConfig {
  std::optional<int> intra_op_threads, inter_op_threads, optimization_level, execution_mode, log_severity,
      log_verbosity;
  std::optional<bool> cpu_arena, memory_pattern;
  std::optional<std::string> optimized_model_path, profile_prefix, log_id;
  std::vector<std::pair<std::string, int64_t>> free_dimensions;
  KeyValues config;               // session config entries
  std::optional<KeyValues> cuda;  // CUDA provider options; absent: CPU only
  struct ExternalFile {
    std::string path;
    const void* bytes;  // kept alive by the caller until the session is loaded
    size_t byte_count;
  };
  std::vector<ExternalFile> external_data;
};

/// The JavaScript side has checked names and types (native/js/session-options.ts); this only reads.
SessionConfig ReadSessionConfig(Napi::Object options);

/// ORT's options with the operator library registered. Throws OrtError.
SessionOptionsPtr MakeSessionOptions(const SessionConfig& config);

}  // namespace lowbit::host
