// Runs the kernels' checks on the GPU.
// usage: gpu_test [--quick] [--every N] [--each-kernel] [--kernel NAME] [--rows|--gemm|--kv|--lorc]
#include <algorithm>

#include "test/gpu/check.h"

int main(int argc, char** argv) {
  bool quick = false, rows = true, gemm = true, kv = true, lorc = true;
  lowbit::test::Tally tally;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--quick")) quick = true;
    if (!std::strcmp(argv[i], "--each-kernel")) tally.each_kernel = true;
    if (!std::strcmp(argv[i], "--kernel") && i + 1 < argc) tally.kernel = argv[++i];
    if (!std::strcmp(argv[i], "--every") && i + 1 < argc) tally.every = std::max(1, std::atoi(argv[++i]));
    if (!std::strcmp(argv[i], "--rows")) gemm = kv = lorc = false;
    if (!std::strcmp(argv[i], "--gemm")) rows = kv = lorc = false;
    if (!std::strcmp(argv[i], "--kv")) rows = gemm = lorc = false;
    if (!std::strcmp(argv[i], "--lorc")) rows = gemm = kv = false;
  }
  cudaDeviceProp device{};
  CHECK_CUDA(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, compute capability %d.%d, %d multiprocessors\n", device.name, device.major, device.minor,
              device.multiProcessorCount);
  if (rows) lowbit::test::TestRows(tally, quick);
  if (gemm) lowbit::test::TestGemm(tally, quick);
  if (kv) lowbit::test::TestKv(tally, quick);
  if (lorc) lowbit::test::TestLorc(tally, quick);
  if (gemm && tally.kernel.empty()) lowbit::test::TestOutlierColumns(tally, quick);
  std::printf("%d checks passed, %d failed\n", tally.passed, tally.failed);
  return tally.failed == 0 ? 0 : 1;
}
