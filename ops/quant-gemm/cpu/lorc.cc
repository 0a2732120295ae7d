#include "ops/quant-gemm/cpu/lorc.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "native/core/scratch.h"
#include "ops/quant-gemm/cpu/run.h"

namespace lowbit::gemm {
namespace {

// Written by the thread that runs the operator (or its helpers, while it waits), read until the term is done.
thread_local Scratch inner_buffer;
thread_local Scratch scale_buffer;
// A task's own.
thread_local Scratch tile_buffer;

/// A second code's unit, in those of the first.
constexpr float kFine = 1.0f / 256;

/// Sums of first and second codes of `down` become the inner values, once for each plane of `up`.
void JoinPlanes(float* inner, int64_t rank, int64_t rows) {
  for (int64_t m = 0; m < rows; ++m, inner += 2 * rank) {
    for (int64_t r = 0; r < rank; ++r) {
      inner[r] += inner[rank + r] * kFine;
      inner[rank + r] = inner[r] * kFine;
    }
  }
}

/// One scale serves all codes of a row, so only groups of activations make segments.
Args DownArgs(const Lorc& lorc, const Args& args, const uint16_t* scale, float* inner) {
  Args down = args;
  down.n = lorc.codes();
  if (args.a_scale_step == 0) down.segment = args.body, down.segments = 1;
  down.b = reinterpret_cast<const uint8_t*>(lorc.down);
  down.b_row = args.body + args.outliers;
  down.b_scale = down.b_outlier_scale = scale;
  down.b_scale_row = 1;
  down.b_scale_step = 0;
  down.b_outlier = lorc.down + args.body;
  down.b_outlier_row = down.b_row;
  down.bias = down.residual = nullptr;
  down.y = inner;
  down.half = false;
  return down;
}

/// The fastest kernel that needs no more than the first product's. Feature bits rise with what they imply.
LorcUpKernel ChooseUp(const GemmKernel& down) {
  for (const LorcUpKernel& kernel : {LorcUpAvx512(), LorcUpAvx2()}) {
    if (kernel.needs <= down.needs) return kernel;
  }
  return LorcUpScalar();
}

/// Multiply-adds worth a task of their own.
constexpr int64_t kTaskWork = 1 << 18;

Status RunUp(const LorcUpKernel& kernel, const LorcUp& up, const KernelContext& context) {
  const int64_t tiles = (up.n + kernel.columns - 1) / kernel.columns;
  const int64_t tasks = std::clamp<int64_t>(up.rows * up.n * up.codes / kTaskWork, 1, std::min<int64_t>(tiles, 16));
  std::atomic<bool> out_of_memory = false;
  LOWBIT_TRY(context.ParallelFor(static_cast<size_t>(tasks), [&](size_t task) {
    float* tile = tile_buffer.Floats(up.codes * kernel.columns);
    if (tile == nullptr) {
      out_of_memory = true;
      return;
    }
    const int64_t i = static_cast<int64_t>(task);
    kernel.run(up, i * tiles / tasks * kernel.columns, std::min(up.n, (i + 1) * tiles / tasks * kernel.columns), tile);
  }));
  if (out_of_memory) return Status::Error(ORT_FAIL, "out of memory for the factors of a low-rank term.");
  return Status::Ok();
}

}  // namespace

Shape DownShape(const Lorc& lorc, const Args& args, int64_t rows) {
  const Args down = DownArgs(lorc, args, nullptr, nullptr);
  return {rows, down.n, down.segment, down.segments};
}

Status RunLorc(const Lorc& lorc, const GemmKernel& down, const Args& args, int64_t rows, const KernelContext& context) {
  float* inner = static_cast<float*>(inner_buffer.Reserve(rows * lorc.codes() * 4));
  uint16_t* scale = static_cast<uint16_t*>(scale_buffer.Reserve(lorc.codes() * 2));
  if (inner == nullptr || scale == nullptr) {
    return Status::Error(ORT_FAIL, "out of memory for ", rows * lorc.codes() * 4, " bytes of a low-rank term.");
  }
  for (int64_t p = 0; p < lorc.planes; ++p) {
    std::memcpy(scale + p * lorc.rank, lorc.down_scale, static_cast<size_t>(lorc.rank) * 2);
  }
  LOWBIT_TRY(RunGemm(down, DownArgs(lorc, args, scale, inner), rows, context));
  if (lorc.planes == 2) JoinPlanes(inner, lorc.rank, rows);
  const LorcUp up{rows, args.n, lorc.codes(), inner, lorc.up, lorc.up_scale, args.residual, args.y, args.half};
  return RunUp(ChooseUp(down), up, context);
}

}  // namespace lowbit::gemm
