#include "ops/rows/cuda/row_sets.cuh"
#include "ops/rows/cuda/rows_sm90.h"

namespace lowbit::cuda {
namespace {

// kRows rows at a time, that many sets of them ahead and so many blocks a multiprocessor.
template <class T, bool kNorm, bool kBare, int kRuns, int kRows, int kStages, int kMinBlocks>
cudaError_t LaunchRuns(const NormQuantizeArgs& args, const RowTarget& target, cudaStream_t stream) {
  const auto launch = [&](auto* kernel) {
    return LaunchRows(kernel, kRuns * kRunChannels / kUnitChannels,
                      RowSetsSharedBytes<T, kRows, kStages>(target, args.residual), (args.rows + kRows - 1) / kRows,
                      args, target, stream);
  };
  return target.one_pass && target.merge_lanes == 8
             ? launch(RowSetsKernel<T, kNorm, kBare, kRows, kRuns, 8, kStages, kMinBlocks>)
             : launch(RowSetsKernel<T, kNorm, kBare, kRows, kRuns, 0, kStages, kMinBlocks>);
}

template <class T, bool kNorm, bool kBare>
cudaError_t Launch(const NormQuantizeArgs& args, const RowTarget& target, cudaStream_t stream) {
  constexpr int kStages = kBare ? 3 : 2;  // residuals lie in the ring too
  switch (args.format.channels) {
    case 4096:  // one row at a time is the quickest to the end
      if (args.rows <= 16) return LaunchRuns<T, kNorm, kBare, 4, 1, kStages, 4>(args, target, stream);
      // Two to four sets a block: asked for one at a time, the first ones are there sooner.
      if (kNorm && kBare && args.rows > 528 && args.rows <= 2112) {
        return LaunchRuns<T, kNorm, kBare, 4, 2, 1, 2>(args, target, stream);
      }
      return LaunchRuns<T, kNorm, kBare, 4, 2, kStages, 2>(args, target, stream);
    case 5120:
      return LaunchRuns < T, kNorm, kBare, 5, 2, kBare ? 3 : 1, 2 > (args, target, stream);
    case 8192:
      return LaunchRuns<T, kNorm, kBare, 8, 2, kStages, 1>(args, target, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

bool TakesRowSets(const NormQuantizeArgs& args) {
  const int channels = args.format.channels;
  const bool known = channels == 4096 || channels == 5120 || channels == 8192;
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!known || args.type == DType::kF32 || args.layer_norm || args.bias || !aligned(args.x) ||
      !aligned(args.residual) || !FallsIntoUnits(args.format, channels)) {
    return false;
  }
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major == 9;
}

cudaError_t LaunchRowSets(const NormQuantizeArgs& args, const RowTarget& target, cudaStream_t stream) {
  const bool bare = !args.residual && !args.sum && !args.y;
  const auto launch = [&](auto type) {
    using T = decltype(type);
    return !args.weight ? Launch<T, false, true>(args, target, stream)
           : bare       ? Launch<T, true, true>(args, target, stream)
                        : Launch<T, true, false>(args, target, stream);
  };
  return args.type == DType::kF16 ? launch(__half{}) : launch(__nv_bfloat16{});
}

}  // namespace lowbit::cuda
