// QuantKvAttention's kernels behind a plain C interface, for bench/gpu/attention.py.
#include <cmath>
#include <cstring>
#include <map>

#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-kv-attention/cuda/launch.h"

using namespace lowbit::cuda;

namespace {

// Reads codes and parameters of keys and values and does nothing with them: what a kernel of so few microseconds can
// reach at most.
__global__ __launch_bounds__(512) void ReadKernel(const uint4* keys, const uint4* values, const uint4* key_params,
                                                  const uint4* value_params, size_t codes, size_t params,
                                                  uint32_t* never) {
  WaitForPriorKernelsIfAny();
  const size_t first = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
  const size_t all = static_cast<size_t>(gridDim.x) * blockDim.x;
  uint32_t x = 0;
  const auto add = [&](const uint4& v) { x ^= v.x ^ v.y ^ v.z ^ v.w; };
  size_t i = first;
  for (; i + 3 * all < codes; i += 4 * all) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(keys + i + j * all), v[4 + j] = __ldcs(values + i + j * all);
#pragma unroll
    for (int j = 0; j < 8; ++j) add(v[j]);
  }
  for (; i < codes; i += all) add(__ldcs(keys + i)), add(__ldcs(values + i));
  for (i = first; i < params; i += all) add(__ldcs(key_params + i)), add(__ldcs(value_params + i));
  LetNextKernelStartIfAny();
  if (x == 0x12345678) *never = x;
}

}  // namespace

extern "C" {

// The same bytes as bench_kv reads of the cache, and nothing else. Sizes are multiples of 16; `never` is 4 bytes.
__attribute__((visibility("default"))) int bench_kv_read(const void* k_codes, const void* k_params, const void* v_codes,
                                                         const void* v_params, size_t code_bytes, size_t param_bytes,
                                                         void* never, cudaStream_t stream) {
  int device = 0, sms = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (e != cudaSuccess) return e;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(4 * sms));
  config.blockDim = dim3(512);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, ReadKernel, static_cast<const uint4*>(k_codes), static_cast<const uint4*>(v_codes),
                            static_cast<const uint4*>(k_params), static_cast<const uint4*>(v_params), code_bytes / 16,
                            param_bytes / 16, static_cast<uint32_t*>(never));
}

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
  const KvKernel* chosen = ChooseKvKernel(args, 90, kernel);
  if (kernel && std::strcmp(chosen->name, kernel) != 0) return -1;
  // Taken before a graph is captured, by the call that warms up, and kept. A run leaves its counters at 0.
  static std::map<std::pair<size_t, int>, void*> scratches;
  if (const auto [bytes, zeros] = KvScratchOf(args, *chosen); bytes > 0) {
    void*& scratch = scratches[{bytes, zeros}];
    if (!scratch) {
      cudaError_t e = cudaMalloc(&scratch, bytes);
      if (e == cudaSuccess) e = cudaMemset(scratch, 0, bytes);
      if (e != cudaSuccess) return e;
    }
    args.scratch = scratch, args.zeros = zeros;
  }
  if (phases & 1) {
    const cudaError_t e = LaunchKvAppend(args, stream);
    if (e != cudaSuccess) return e;
  }
  if (!(phases & 2)) return cudaSuccess;
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
