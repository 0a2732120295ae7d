// QuantGemm on the device: the facts of a product, the kernels there are, and the choice among them.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/common/cuda/types.h"

namespace lowbit::cuda {

// y[m, n] = bias[n] + residual[m, n] + sum over segments; layouts as in ops/formats/README.md. All pointers are on the
// device; a, bias, residual and y are in `type` where they are floats.
struct GemmArgs {
  DType type = DType::kF32;
  Format weight_format = Format::kS4;
  Format a_format = Format::kS8;  // kNone: a holds floats (weight-only)
  int64_t m = 0;
  int n = 0;
  int k = 0;                                  // including outliers
  int outliers = 0;                           // O
  int group_size = 0;                         // of the weights; 0: per channel
  int a_group_size = 0;                       // of the activations; 0: per token
  const void* a = nullptr;                    // [M, K] codes or floats
  const float* a_scale = nullptr;             // [M, S]
  const void* b = nullptr;                    // [N, ceil((K-O)/2)] if nibbles(), else [N, K-O] bytes
  const uint16_t* b_scale = nullptr;          // float16 [N, groups]
  const int8_t* b_outlier = nullptr;          // [N, O]
  const uint16_t* b_outlier_scale = nullptr;  // float16 [N]
  const void* bias = nullptr;                 // [N] or null
  const void* residual = nullptr;             // [M, N] or null
  void* y = nullptr;                          // [M, N]
  bool powers_of_two = false;                 // b_scale: a row's largest one times 2^-k, 0 <= k <= 13
  bool constant_weights = false;  // b and its scales are never written: may be read before the stream is reached

  constexpr int body() const { return k - outliers; }
  // Channels of a body segment: both sides' scales are constant on it.
  constexpr int segment() const { return group_size ? group_size : a_group_size ? a_group_size : body(); }
  constexpr int segments() const { return body() / segment(); }
  constexpr int a_scales() const { return (a_group_size ? body() / a_group_size : 1) + (outliers > 0 ? 1 : 0); }
  // Whether the inner sums are integers.
  constexpr bool integers() const {
    return (a_format == Format::kS4 || a_format == Format::kS8 || a_format == Format::kS4E4M3) &&
           (weight_format == Format::kS4 || weight_format == Format::kS8);
  }
  constexpr bool nibbles() const {
    return weight_format == Format::kS4 || weight_format == Format::kE2M1 || weight_format == Format::kE3M0 ||
           weight_format == Format::kBnbFp4;
  }
  constexpr int b_scales() const { return group_size ? body() / group_size : 1; }
};

// Whether segments are one or several whole steps of `step` channels, a power of two.
constexpr bool WholeSteps(const GemmArgs& args, int step = 128) {
  const int unit = args.segment() / step;
  return args.segments() == 1 || (args.segment() % step == 0 && (unit & (unit - 1)) == 0);
}

// Up to this many tokens reading the weights takes longer than multiplying them.
constexpr int64_t kReadBoundTokens = 64;

// One kernel, as the choice and the force variable see it. Tables are ordered: the first that prefers the product is
// taken.
struct GemmKernel {
  const char* name;
  int min_arch, max_arch;                 // compute capability x 10, inclusive
  bool (*prefers)(const GemmArgs& args);  // is the right one
  bool (*accepts)(const GemmArgs& args);  // gives the right result
  cudaError_t (*run)(const GemmArgs& args, cudaStream_t stream);
};

// Whether a device of this architecture can run the kernel: also INT4 kernels on chips that emulate INT4.
constexpr bool Runs(const GemmKernel& kernel, int arch) {
  return arch >= kernel.min_arch && (arch <= kernel.max_arch || kernel.min_arch < 90);
}

extern const GemmKernel kGemmKernels[];
extern const int kGemmKernelCount;

// The kernel for these facts on a device of this architecture. `forced`, a kernel's name, is taken if it accepts; null
// lets the table decide. Never null: the portable kernel accepts everything.
const GemmKernel* ChooseGemmKernel(const GemmArgs& args, int arch, const char* forced);

// Kernels' entry points; each is asynchronous on `stream` and neither allocates nor synchronizes.
bool AcceptsDecode(const GemmArgs& args);
cudaError_t LaunchDecode(const GemmArgs& args, cudaStream_t stream);
bool AcceptsResident(const GemmArgs& args);
bool PrefersResident(const GemmArgs& args);
cudaError_t LaunchResident(const GemmArgs& args, cudaStream_t stream);
bool AcceptsResidentFloat(const GemmArgs& args);
bool PrefersResidentFloat(const GemmArgs& args);
cudaError_t LaunchResidentFloat(const GemmArgs& args, cudaStream_t stream);
bool AcceptsResidentMinifloat(const GemmArgs& args);
bool PrefersResidentMinifloat(const GemmArgs& args);
cudaError_t LaunchResidentMinifloat(const GemmArgs& args, cudaStream_t stream);
bool AcceptsBatch(const GemmArgs& args);
cudaError_t LaunchBatch(const GemmArgs& args, cudaStream_t stream);
bool AcceptsBatchMinifloat(const GemmArgs& args);
cudaError_t LaunchBatchMinifloat(const GemmArgs& args, cudaStream_t stream);
bool AcceptsStreamFloat(const GemmArgs& args);
cudaError_t LaunchStreamFloat(const GemmArgs& args, cudaStream_t stream);
bool AcceptsBatchFloat(const GemmArgs& args);
cudaError_t LaunchBatchFloat(const GemmArgs& args, cudaStream_t stream);
bool AcceptsResidentDigits(const GemmArgs& args);
bool PrefersResidentDigits(const GemmArgs& args);
cudaError_t LaunchResidentDigits(const GemmArgs& args, cudaStream_t stream);
bool AcceptsStreamDigits(const GemmArgs& args);
cudaError_t LaunchStreamDigits(const GemmArgs& args, cudaStream_t stream);
bool AcceptsGroupSm90(const GemmArgs& args);
cudaError_t LaunchGroupSm90(const GemmArgs& args, cudaStream_t stream);
// Tokens of a block's tile, the blocks of a cluster that divide the input channels, and output channels of a block:
// 192 for 4-bit codes on both sides and 128 tokens alone, elsewhere they are taken for 128.
struct Fp8Shape {
  int tokens, split, channels = 128;
};
constexpr Fp8Shape kFp8Shapes[] = {{64, 1},  {64, 2},  {64, 4},  {128, 1},     {128, 2},
                                   {128, 4}, {256, 1}, {256, 2}, {128, 1, 192}};
Fp8Shape ChooseFp8Shape(const GemmArgs& args);
bool AcceptsFp8Sm90(const GemmArgs& args);
cudaError_t LaunchFp8Sm90With(const GemmArgs& args, Fp8Shape shape, cudaStream_t stream);
bool AcceptsFp8FoldedSm90(const GemmArgs& args);
cudaError_t LaunchFp8FoldedSm90(const GemmArgs& args, cudaStream_t stream);
cudaError_t LaunchFp8Sm90(const GemmArgs& args, cudaStream_t stream);
// The same of the s8s8 and f16s4 kernels; 240 tokens are for the second alone.
struct WideShape {
  int tokens, split;
};
constexpr WideShape kWideShapes[] = {{64, 1},  {64, 2},  {64, 3},  {128, 1}, {128, 2},
                                     {128, 3}, {176, 1}, {240, 1}, {256, 1}, {256, 2}};
WideShape ChooseWideShape(const GemmArgs& args);
bool AcceptsS8Sm90(const GemmArgs& args);
cudaError_t LaunchS8Sm90With(const GemmArgs& args, WideShape shape, cudaStream_t stream);
cudaError_t LaunchS8Sm90(const GemmArgs& args, cudaStream_t stream);
bool AcceptsS4Sm80(const GemmArgs& args);
cudaError_t LaunchS4Sm80(const GemmArgs& args, cudaStream_t stream);
bool AcceptsWeightOnly(const GemmArgs& args);
cudaError_t LaunchWeightOnly(const GemmArgs& args, cudaStream_t stream);
bool AcceptsWeightOnlySm90(const GemmArgs& args);
cudaError_t LaunchWeightOnlySm90With(const GemmArgs& args, WideShape shape, cudaStream_t stream);
cudaError_t LaunchWeightOnlySm90(const GemmArgs& args, cudaStream_t stream);
cudaError_t LaunchPortable(const GemmArgs& args, cudaStream_t stream);

}  // namespace lowbit::cuda
