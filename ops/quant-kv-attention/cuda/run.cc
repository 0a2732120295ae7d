#include "ops/quant-kv-attention/cuda/run.h"

#include <algorithm>
#include <climits>

#include "native/core/cuda_memory.h"
#include "ops/common/cuda/graph_type.h"
#include "ops/quant-kv-attention/cuda/launch.h"

namespace lowbit {
namespace {

cuda::KvRows RowsOf(const kv::Cache& cache) { return {cache.codes, cache.params, static_cast<int>(cache.rows)}; }

cuda::KvRotary RotaryOf(kv::Rotary rotary) {
  switch (rotary) {
    case kv::Rotary::kHalf:
      return cuda::KvRotary::kHalf;
    case kv::Rotary::kInterleaved:
      return cuda::KvRotary::kInterleaved;
    case kv::Rotary::kNone:
      break;
  }
  return cuda::KvRotary::kNone;
}

cuda::KvArgs Convert(const kv::Args& from, ElementType type, int64_t batch, const int32_t* lengths, int64_t limit) {
  cuda::KvArgs to;
  to.type = cuda::GraphType(type);
  to.batch = static_cast<int>(batch);
  to.tokens = static_cast<int>(from.tokens);
  to.heads = static_cast<int>(from.heads);
  to.kv_heads = static_cast<int>(from.kv_heads);
  to.head_dim = static_cast<int>(from.head_dim);
  to.bits = static_cast<int>(from.bits);
  to.clip_over_last = from.clip / static_cast<float>((1 << from.bits) - 1);
  to.half_unclipped = (1.f - from.clip) / 2.f;
  to.scale = from.scale;
  to.softcap = from.softcap;
  to.causal = from.causal;
  to.window = static_cast<int>(std::min<int64_t>(from.window, INT_MAX));
  to.rotary = RotaryOf(from.rotary);
  to.rotate_on_read = from.rotate_on_read;
  to.q = from.q;
  to.k = from.k;
  to.v = from.v;
  to.q_stride = from.q_stride;
  to.kv_stride = from.kv_stride;
  to.past_k = RowsOf(from.past_k);
  to.past_v = RowsOf(from.past_v);
  to.present_k = RowsOf(from.present_k);
  to.present_v = RowsOf(from.present_v);
  to.lengths = lengths;
  to.limit = static_cast<int>(limit);
  to.cos = from.cos;
  to.sin = from.sin;
  to.pairs = static_cast<int>(from.pairs);
  to.mask = from.mask;
  to.mask_batch_stride = from.mask_batch_stride;
  to.mask_head_stride = from.mask_head_stride;
  to.mask_row_stride = from.mask_row_stride;
  to.y = from.y;
  return to;
}

std::vector<KernelRow> Names() {
  std::vector<KernelRow> rows;
  for (int i = 0; i < cuda::kKvKernelCount; ++i) rows.push_back({cuda::kKvKernels[i].name, 0});
  return rows;
}

}  // namespace

std::vector<CudaKernelRow> QuantKvAttentionCudaKernels() {
  int arch = 0;
  const bool device = CudaArchitecture(&arch) == cudaSuccess;
  std::vector<CudaKernelRow> rows;
  for (int i = 0; i < cuda::kKvKernelCount; ++i) {
    rows.push_back({cuda::kKvKernels[i].name, device && cuda::Runs(cuda::kKvKernels[i], arch)});
  }
  return rows;
}

Status RunAttentionOnCuda(const std::string& where, const KernelContext& context, const kv::Args& args,
                          ElementType type, int64_t batch, const int32_t* lengths, int64_t limit, void* stream) {
  const int64_t rows = args.present_k.rows;
  LOWBIT_EXPECT(rows <= INT_MAX && batch <= 65535 && args.tokens * args.heads <= INT_MAX, where, ": batch ", batch,
                ", ", args.tokens, " new tokens and a cache of ", rows,
                " tokens are more than the CUDA kernels count.");
  if (args.tokens == 0) {
    const cuda::KvArgs empty = Convert(args, type, batch, lengths, limit);
    return FromCuda(cuda::LaunchKvAppend(empty, static_cast<cudaStream_t>(stream)), where);
  }
  int arch = 0;
  LOWBIT_TRY(FromCuda(CudaArchitecture(&arch), where));
  cuda::KvArgs on_device = Convert(args, type, batch, lengths, limit);
  const cuda::KvKernel* kernel =
      cuda::ChooseKvKernel(on_device, arch, ForcedCudaKernel<cuda::KvKernel>("QuantKvAttention", Names));
  Temporary scratch;
  if (const auto [bytes, zeros] = cuda::KvScratchOf(on_device, *kernel); bytes > 0) {
    LOWBIT_TRY(AllocateOnCuda(where, context, bytes, &scratch));
    on_device.scratch = scratch.data();
    on_device.zeros = zeros;
  }
  LOWBIT_TRY(FromCuda(cuda::LaunchKvAppend(on_device, static_cast<cudaStream_t>(stream)), where));
  return FromCuda(kernel->run(on_device, static_cast<cudaStream_t>(stream)), where, " (kernel ", kernel->name,
                  ", B=", batch, ", S=", args.tokens, ", T=", args.past_k.rows, ")");
}

}  // namespace lowbit
