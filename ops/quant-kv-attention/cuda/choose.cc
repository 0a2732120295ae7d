// The attention kernels for CUDA, the best first.
#include <cstring>

#include "ops/quant-kv-attention/cuda/launch.h"

namespace lowbit::cuda {
namespace {

// With more query rows than this, tensor cores are better filled by the other kernels.
constexpr int kFewRows = 16;

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// What the tensor core kernels take.
bool AcceptsHalf(const KvArgs& args) {
  const int d = args.head_dim;
  return args.type != DType::kF32 && (d == 32 || d == 64 || d == 80 || d == 96 || d == 128 || d == 256) &&
         Aligned(args.present_k.codes) && Aligned(args.present_v.codes) &&
         (args.rotary == KvRotary::kNone || (Aligned(args.cos) && Aligned(args.sin)));
}

template <int kBits>
bool AcceptsDecode(const KvArgs& args) {
  const int d = args.head_dim;
  const bool turns = !args.rotate_on_read || (2 * args.pairs == d && (d == 64 || d == 128 || d == 256));
  const int64_t row_blocks = (args.query_rows() + 7) / 8;  // the grid's second dimension has as many for each head
  return args.bits == kBits && turns && args.query_rows() < 65536 && args.kv_heads * row_blocks < 65536 &&
         AcceptsHalf(args);
}
template <int kBits>
bool PrefersDecode(const KvArgs& args) {
  return args.query_rows() <= kFewRows && AcceptsDecode<kBits>(args);
}

bool AcceptsPrefill(const KvArgs& args) {
  const int unit = args.rotary == KvRotary::kHalf ? 8 : args.rotary == KvRotary::kInterleaved ? 4 : 1;
  return AcceptsHalf(args) && args.pairs % unit == 0 && Aligned(args.q) && args.q_stride % 8 == 0;
}

bool AcceptsFewFloats(const KvArgs& args) {
  const bool half = args.rotary == KvRotary::kHalf;
  const bool turns =
      !args.rotate_on_read || (args.pairs % (half ? 8 : 4) == 0 && Aligned(args.cos) && Aligned(args.sin));
  return args.type == DType::kF32 && args.query_rows() <= 8 && args.head_dim <= 256 && turns;
}

// Each block of queries would turn all keys that it sees. Not for caches so large that memory matters more.
KvScratch TurnedKeys(const KvArgs& args) {
  constexpr int kManyRows = 256;
  constexpr size_t kMostBytes = size_t{256} << 20;
  if (!args.rotate_on_read || args.query_rows() <= kManyRows) return {};
  const size_t tile = args.head_dim <= 128 ? 128 : 64,
               rows = (static_cast<size_t>(args.limit) + tile - 1) / tile * tile;
  const size_t bytes = rows * static_cast<size_t>(args.batch) * static_cast<size_t>(args.kv_heads) *
                       static_cast<size_t>(args.head_dim) * 2;
  return {bytes <= kMostBytes ? bytes : 0, 0};
}

bool Anything(const KvArgs&) { return true; }

}  // namespace

const KvKernel kKvKernels[] = {
    {"kv_decode_u4_mma__sm80", 80, 1000, PrefersDecode<4>, AcceptsDecode<4>, LaunchKvDecodeU4, KvDecodeU4Scratch},
    {"kv_decode_u8_mma__sm80", 80, 1000, PrefersDecode<8>, AcceptsDecode<8>, LaunchKvDecodeU8, KvDecodeU8Scratch},
    {"kv_prefill_wgmma__sm90", 90, 90, AcceptsPrefill, AcceptsPrefill, LaunchKvPrefillSm90, TurnedKeys},
    {"kv_few_rows__cuda", 0, 1000, AcceptsFewFloats, AcceptsFewFloats, LaunchKvFewRows, nullptr},
    {"kv_portable__cuda", 0, 1000, Anything, Anything, LaunchKvPortable, nullptr},
};
const int kKvKernelCount = sizeof(kKvKernels) / sizeof(kKvKernels[0]);

const KvKernel* ChooseKvKernel(const KvArgs& args, int arch, const char* forced) {
  const KvKernel* const end = kKvKernels + kKvKernelCount;
  for (const KvKernel* k = kKvKernels; forced && k != end; ++k) {
    if (std::strcmp(k->name, forced) == 0 && Runs(*k, arch) && k->accepts(args)) return k;
  }
  const KvKernel* k = kKvKernels;
  while (!Runs(*k, arch) || !k->prefers(args)) ++k;
  return k;
}

KvScratch KvScratchOf(const KvArgs& args, const KvKernel& kernel) {
  return kernel.scratch ? kernel.scratch(args) : KvScratch{};
}

}  // namespace lowbit::cuda
