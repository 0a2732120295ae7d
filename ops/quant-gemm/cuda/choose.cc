// The QuantGemm kernels for CUDA, the best first.
#include <cstring>

#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {
namespace {

// kReadBoundTokens where tiles of tokens are narrow and the blocks of a cluster divide the input channels.
constexpr int64_t kFewestTokens = 16;

bool Anything(const GemmArgs&) { return true; }
bool ManyS8(const GemmArgs& args) { return args.m > kFewestTokens && AcceptsS8Sm90(args); }
bool ManyGroup(const GemmArgs& args) { return args.m > kReadBoundTokens && AcceptsGroupSm90(args); }
bool ManyWeightOnly(const GemmArgs& args) { return args.m > kReadBoundTokens / 2 && AcceptsWeightOnlySm90(args); }

// Also few tokens where no kernel for them takes the product, or has to convert too much (s4_e4m3 to int8).
bool Fp8(const GemmArgs& args) {
  const int64_t most = args.a_format == Format::kS4E4M3 ? kReadBoundTokens / 2 : kReadBoundTokens;
  const bool few = (args.m <= most && (AcceptsBatch(args) || AcceptsBatchMinifloat(args))) ||
                   (args.m <= kReadBoundTokens / 2 && AcceptsDecode(args));
  return AcceptsFp8Sm90(args) && !few;
}

// Hundredths of a microsecond on an H200: a step of 128 input channels of a block, and everything else of a tile.
struct WideTimes {
  WideShape shape;
  int step, rest;
};
constexpr WideTimes kCodeTimes[] = {{{64, 1}, 21, 290},  {{64, 2}, 25, 440},  {{64, 3}, 27, 420}, {{128, 1}, 31, 320},
                                    {{128, 2}, 38, 460}, {{176, 1}, 53, 110}, {{256, 1}, 77, 150}};
constexpr WideTimes kFloatTimes[] = {
    {{64, 1}, 66, 30},   {{64, 2}, 65, 400},   {{64, 3}, 72, 300},   {{128, 1}, 77, 300},  {{128, 2}, 85, 330},
    {{128, 3}, 83, 420}, {{176, 1}, 100, 200}, {{240, 1}, 118, 240}, {{256, 1}, 125, 250}, {{256, 2}, 130, 620}};

template <int kCount>
WideShape LeastTime(const GemmArgs& args, const WideTimes (&times)[kCount]) {
  constexpr int64_t kBlocks = 132, kInThrees = 126, kChannels = 128, kStep = 128, kDividing = 350;
  const int64_t steps = (args.k + kStep - 1) / kStep, columns = (args.n + kChannels - 1) / kChannels;
  WideShape best{};
  int64_t least = INT64_MAX;
  for (const WideTimes& t : times) {
    const int64_t tiles = (args.m + t.shape.tokens - 1) / t.shape.tokens * columns;
    // Clusters of three do not fill the parts of the chip, which have 16 or 18 multiprocessors.
    const int64_t at_once = t.shape.split == 3 ? kInThrees : kBlocks;
    const int64_t waves = (tiles * t.shape.split + at_once - 1) / at_once;
    int64_t time = waves * ((steps + t.shape.split - 1) / t.shape.split * t.step + t.rest);
    // Of 256 tokens the last wave's tiles are divided where they leave half of the blocks without work.
    const int64_t last = tiles % kBlocks;
    if (t.shape.tokens == 256 && t.shape.split == 1 && last > 0 && 2 * last <= kBlocks) {
      time -= steps / 2 * t.step - kDividing;
    }
    if (time < least) least = time, best = t.shape;
  }
  return best;
}

bool Fp8Folded(const GemmArgs& args) { return args.m > 512 && AcceptsFp8FoldedSm90(args); }

}  // namespace

WideShape ChooseWideShape(const GemmArgs& args) {
  return args.a_format == Format::kNone ? LeastTime(args, kFloatTimes) : LeastTime(args, kCodeTimes);
}

const GemmKernel kGemmKernels[] = {
    {"s8s8_wgmma__sm90", 90, 90, ManyS8, AcceptsS8Sm90, LaunchS8Sm90},
    {"s8s4_wgmma__sm90", 90, 90, ManyGroup, AcceptsGroupSm90, LaunchGroupSm90},
    {"fp8_folded_wgmma__sm90", 90, 90, Fp8Folded, AcceptsFp8FoldedSm90, LaunchFp8FoldedSm90},
    {"fp8_wgmma__sm90", 90, 90, Fp8, AcceptsFp8Sm90, LaunchFp8Sm90},
    {"f16s4_wgmma__sm90", 90, 90, ManyWeightOnly, AcceptsWeightOnlySm90, LaunchWeightOnlySm90},
    {"s4s4_mma__sm80", 80, 89, AcceptsS4Sm80, AcceptsS4Sm80, LaunchS4Sm80},
    {"s8s4_resident__sm90", 90, 90, PrefersResident, AcceptsResident, LaunchResident},
    {"f8_resident__sm90", 90, 90, PrefersResidentMinifloat, AcceptsResidentMinifloat, LaunchResidentMinifloat},
    {"f16s4_resident_digits__sm90", 90, 90, PrefersResidentDigits, AcceptsResidentDigits, LaunchResidentDigits},
    {"f16s4_stream_digits__sm90", 90, 90, AcceptsStreamDigits, AcceptsStreamDigits, LaunchStreamDigits},
    {"f16s8_resident__sm90", 90, 90, PrefersResidentFloat, AcceptsResidentFloat, LaunchResidentFloat},
    {"s8s4_batch__sm90", 90, 90, AcceptsBatch, AcceptsBatch, LaunchBatch},
    {"f8_batch__sm90", 90, 90, AcceptsBatchMinifloat, AcceptsBatchMinifloat, LaunchBatchMinifloat},
    {"f16s4_batch__sm90", 90, 90, AcceptsBatchFloat, AcceptsBatchFloat, LaunchBatchFloat},
    {"f16s8_stream__sm90", 90, 90, AcceptsStreamFloat, AcceptsStreamFloat, LaunchStreamFloat},
    {"s8s4_mma__sm80", 80, 1000, AcceptsDecode, AcceptsDecode, LaunchDecode},
    {"f16s4_mma__sm80", 80, 1000, AcceptsWeightOnly, AcceptsWeightOnly, LaunchWeightOnly},
    {"portable__cuda", 0, 1000, Anything, Anything, LaunchPortable},
};
const int kGemmKernelCount = sizeof(kGemmKernels) / sizeof(kGemmKernels[0]);

const GemmKernel* ChooseGemmKernel(const GemmArgs& args, int arch, const char* forced) {
  const GemmKernel* const end = kGemmKernels + kGemmKernelCount;
  for (const GemmKernel* k = kGemmKernels; forced && k != end; ++k) {
    if (std::strcmp(k->name, forced) == 0 && Runs(*k, arch) && k->accepts(args)) return k;
  }
  const GemmKernel* k = kGemmKernels;
  while (arch < k->min_arch || arch > k->max_arch || !k->prefers(args)) ++k;
  return k;
}

}  // namespace lowbit::cuda
