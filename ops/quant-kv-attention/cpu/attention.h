// The CPU side of QuantKvAttention as plain data. No library headers, so that instruction-set files may include it.
#pragma once

#include <cstdint>

namespace lowbit::kv {

enum class Rotary : uint8_t { kNone, kHalf, kInterleaved };

/// Keys or values of all sequences: rows of codes, [batch, kv_heads, rows], and two float16 parameters each.
struct Cache {
  uint8_t* codes;
  uint16_t* params;
  int64_t rows;  // of a head
};

/// Pointers named void hold the graph type (float, or binary16 bits). Strides are elements.
struct Args {
  int64_t tokens;  // S
  int64_t heads, kv_heads, head_dim;
  int64_t bits, row_bytes;
  float clip, scale, softcap;
  bool causal, half;
  int64_t window;  // 0: all
  Rotary rotary;
  bool rotate_on_read;  // keys are stored before RoPE

  const void* q;  // [batch, S, q_stride], head h at h * head_dim
  int64_t q_stride;
  const void* k;  // [batch, S, kv_stride]
  const void* v;
  int64_t kv_stride;
  Cache past_k, past_v, present_k, present_v;
  const int64_t* lengths;  // [batch], new tokens included
  const void* cos;         // [positions, pairs]
  const void* sin;
  int64_t pairs;
  const void* mask;  // added to scores, or nullptr
  int64_t mask_batch_stride, mask_head_stride, mask_row_stride;
  void* y;  // [batch, S, heads * head_dim]

  /// Position of the first new token of a sequence.
  __attribute__((always_inline)) int64_t Start(int64_t b) const {
    return lengths[b] > tokens ? lengths[b] - tokens : 0;
  }
};

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

/// Keys that are unpacked together. Blocks begin at multiples of it, so a query's result does not depend on which other
/// queries share its task.
inline constexpr int64_t kKeyBlock = 32;

/// Keys whose part of a result is computed on its own; the parts are joined in the order of the keys. Tasks may take
/// single parts, and a result does not depend on whether they do.
inline constexpr int64_t kPartKeys = 8 * kKeyBlock;

/// Floats of 64-byte aligned scratch for `tokens` new tokens of one kv head.
int64_t ScratchFloats(const Args& args, int64_t tokens);
/// Floats of one part of the result of `tokens` new tokens of one kv head: weighted values, sums and maxima.
inline int64_t PartFloats(const Args& args, int64_t tokens) {
  return tokens * args.heads / args.kv_heads * (args.head_dim + 2);
}

/// Everything works on one kv head of one sequence. No allocation, no locks, no I/O.
struct Kernel {
  const char* name;  // "<graph type>u<bits>_<graph type>__<arch>"
  uint32_t needs;    // CpuFeature bits
  bool half;
  int64_t bits;
  /// Quantizes new tokens [begin, end) into the present cache.
  void (*store)(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, float* scratch);
  /// Output of new tokens [begin, end), all query heads of the kv head.
  void (*attend)(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, float* scratch);
  /// The same in two steps: parts [first, last) of the result, one after the other from `parts` on; and the output from
  /// all `count` of them.
  void (*attend_parts)(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, int64_t first,
                       int64_t last, float* parts, float* scratch);
  void (*join_parts)(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, int64_t count,
                     const float* parts, float* scratch);
};

inline constexpr int kKernelsPerArch = 4;

// One table per instruction-set file, kKernelsPerArch rows each.
const Kernel* ScalarKernels();
#if defined(__x86_64__)
const Kernel* Avx2Kernels();
const Kernel* Avx512Kernels();
#endif

}  // namespace lowbit::kv
