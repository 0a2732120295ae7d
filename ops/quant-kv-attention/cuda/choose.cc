// The attention kernels for CUDA, the best first.
#include <cstring>

#include "ops/quant-kv-attention/cuda/launch.h"

namespace lowbit::cuda {
namespace {

bool Anything(const KvArgs&) { return true; }

}  // namespace

const KvKernel kKvKernels[] = {
    {"kv_portable__cuda", 0, Anything, Anything, LaunchKvPortable},
};
const int kKvKernelCount = sizeof(kKvKernels) / sizeof(kKvKernels[0]);

const KvKernel* ChooseKvKernel(const KvArgs& args, int arch, const char* forced) {
  const KvKernel* const end = kKvKernels + kKvKernelCount;
  for (const KvKernel* k = kKvKernels; forced && k != end; ++k) {
    if (std::strcmp(k->name, forced) == 0 && arch >= k->min_arch && k->accepts(args)) return k;
  }
  const KvKernel* k = kKvKernels;
  while (arch < k->min_arch || !k->prefers(args)) ++k;
  return k;
}

}  // namespace lowbit::cuda
