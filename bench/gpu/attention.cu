// QuantKvAttention's kernels behind a plain C interface, for bench/gpu/attention.py.
#include <cmath>
#include <cstring>

#include "ops/quant-kv-attention/cuda/launch.h"

using namespace lowbit::cuda;

extern "C" {

// An in-place cache of `rows` tokens a sequence, float16 graph, RoPE by halves. `phases`: 1 appends, 2 attends, 3 both.
// `kernel`: a name, or null for the table's choice. Returns the CUDA error, -1 where the kernel does not take the
// shape.
__attribute__((visibility("default"))) int bench_kv(const char* kernel, int phases, int batch, int tokens, int rows,
                                                    int heads, int kv_heads, int head_dim, int bits, int post,
                                                    const void* q, const void* k, const void* v, uint8_t* k_codes,
                                                    uint16_t* k_params, uint8_t* v_codes, uint16_t* v_params,
                                                    const int32_t* lengths, const void* cos, const void* sin, void* y,
                                                    cudaStream_t stream) {
  KvArgs args;
  args.type = DType::kF16;
  args.batch = batch, args.tokens = tokens, args.heads = heads, args.kv_heads = kv_heads, args.head_dim = head_dim;
  args.bits = bits;
  args.clip_over_last = 1.0f / static_cast<float>((1 << bits) - 1);
  args.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  args.rotary = KvRotary::kHalf, args.rotate_on_read = !post, args.pairs = head_dim / 2;
  args.q = q, args.k = k, args.v = v;
  args.q_stride = static_cast<int64_t>(heads) * head_dim, args.kv_stride = static_cast<int64_t>(kv_heads) * head_dim;
  args.past_k = args.present_k = {k_codes, k_params, rows};
  args.past_v = args.present_v = {v_codes, v_params, rows};
  args.lengths = lengths, args.limit = rows;
  args.cos = cos, args.sin = sin, args.y = y;
  if (phases & 1) {
    const cudaError_t e = LaunchKvAppend(args, stream);
    if (e != cudaSuccess) return e;
  }
  if (!(phases & 2)) return cudaSuccess;
  const KvKernel* chosen = ChooseKvKernel(args, 90, kernel);
  if (kernel && std::strcmp(chosen->name, kernel) != 0) return -1;
  // Taken before a graph is captured, by the call that warms up, and kept.
  static void* scratch = nullptr;
  static size_t held = 0;
  if (const size_t bytes = KvScratchBytes(args, *chosen); bytes > 0) {
    if (bytes > held) {
      const cudaError_t e = cudaMalloc(&scratch, bytes);
      if (e != cudaSuccess) return e;
      held = bytes;
    }
    args.turned_keys = scratch;
  }
  return chosen->run(args, stream);
}

__attribute__((visibility("default"))) const char* bench_kv_choice(int batch, int tokens, int rows, int heads,
                                                                   int kv_heads, int head_dim, int bits, int post) {
  KvArgs args;
  args.type = DType::kF16;
  args.batch = batch, args.tokens = tokens, args.heads = heads, args.kv_heads = kv_heads, args.head_dim = head_dim;
  args.bits = bits, args.pairs = head_dim / 2, args.rotary = KvRotary::kHalf, args.rotate_on_read = !post;
  args.present_k.rows = args.present_v.rows = rows;
  return ChooseKvKernel(args, 90, nullptr)->name;
}
}
