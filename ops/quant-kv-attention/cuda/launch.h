// QuantKvAttention on the device: the facts of one run, the kernels there are, and the choice among them.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "ops/common/cuda/types.h"

namespace lowbit::cuda {

enum class KvRotary : int { kNone, kHalf, kInterleaved };

// Keys or values: rows of codes [batch, kv heads, rows], and float16 scale and min of each row.
struct KvRows {
  uint8_t* codes = nullptr;
  uint16_t* params = nullptr;
  int rows = 0;  // of a head
};

// One run. Layouts and meaning: the README of the operator and ops/formats/README.md. Pointers are on the device; those
// named void hold the graph type. Strides are elements.
struct KvArgs {
  DType type = DType::kF32;
  int batch = 0, tokens = 0;  // S
  int heads = 0, kv_heads = 0, head_dim = 0;
  int bits = 4;
  float clip_over_last = 0, half_unclipped = 0;  // clip / Q and (1 - clip) / 2, each rounded once
  float scale = 1, softcap = 0;
  bool causal = true;
  int window = 0;  // 0: all
  KvRotary rotary = KvRotary::kNone;
  bool rotate_on_read = false;  // keys are stored before RoPE

  const void* q = nullptr;  // [batch, S, q_stride], head h at h * head_dim
  const void *k = nullptr, *v = nullptr;
  int64_t q_stride = 0, kv_stride = 0;
  KvRows past_k, past_v, present_k, present_v;
  const int32_t* lengths = nullptr;  // [batch] or null: every sequence has `limit` tokens
  int limit = 0;  // lengths beyond it (cache, RoPE table or mask is shorter) give NaN and store nothing
  const void *cos = nullptr, *sin = nullptr;
  int pairs = 0;  // R
  const void* mask = nullptr;
  int64_t mask_batch_stride = 0, mask_head_stride = 0, mask_row_stride = 0;
  void* y = nullptr;        // [batch, S, heads * head_dim]
  void* scratch = nullptr;  // KvScratchOf this run, or null: then the kernels do without
  int zeros = 0;            // 32-bit words of it that the append kernel sets to 0

  constexpr int group() const { return heads / kv_heads; }
  constexpr int row_bytes() const { return head_dim * bits / 8; }
  // Rows of queries that see the same keys: the query heads of a kv head, for each token.
  constexpr int query_rows() const { return tokens * group(); }
};

// Quantizes the new keys and values into present; brings the past over first where present is another buffer.
cudaError_t LaunchKvAppend(const KvArgs& args, cudaStream_t stream);

// Memory that a run needs or that makes it faster.
struct KvScratch {
  size_t bytes = 0;
  int zeros = 0;  // 32-bit words at its start that have to be 0: the append kernel sees to it
};

// An attention kernel, as the choice and the force variable see it. Tables are ordered: the first that prefers is
// taken.
struct KvKernel {
  const char* name;
  int min_arch, max_arch;               // compute capability x 10, inclusive
  bool (*prefers)(const KvArgs& args);  // is the right one
  bool (*accepts)(const KvArgs& args);  // gives the right result
  cudaError_t (*run)(const KvArgs& args, cudaStream_t stream);
  KvScratch (*scratch)(const KvArgs& args);  // null: none
};

constexpr bool Runs(const KvKernel& kernel, int arch) { return arch >= kernel.min_arch && arch <= kernel.max_arch; }

extern const KvKernel kKvKernels[];
extern const int kKvKernelCount;

// The kernel for these facts on a device of this architecture; `forced`, a kernel's name or null, is taken if it
// accepts.
const KvKernel* ChooseKvKernel(const KvArgs& args, int arch, const char* forced);

// Scratch memory for these facts and this kernel.
KvScratch KvScratchOf(const KvArgs& args, const KvKernel& kernel);

// Kernels' entry points: attention of every query over present. Asynchronous; no allocation, no synchronisation.
cudaError_t LaunchKvDecodeU4(const KvArgs& args, cudaStream_t stream);
cudaError_t LaunchKvDecodeU8(const KvArgs& args, cudaStream_t stream);
KvScratch KvDecodeU4Scratch(const KvArgs& args);
KvScratch KvDecodeU8Scratch(const KvArgs& args);
cudaError_t LaunchKvPrefillSm90(const KvArgs& args, cudaStream_t stream);
cudaError_t LaunchKvFewRows(const KvArgs& args, cudaStream_t stream);
cudaError_t LaunchKvPortable(const KvArgs& args, cudaStream_t stream);

}  // namespace lowbit::cuda
