#include "ops/quant-gemm/cpu/outlier_columns.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "native/core/float16.h"
#include "native/core/scratch.h"

namespace lowbit::gemm {
namespace {

// Written by the thread that runs the operator (or its helpers, while it waits), read until the product is done.
thread_local Scratch found_buffer;
thread_local Scratch index_buffer;
thread_local Scratch codes_buffer;
thread_local Scratch scale_buffer;
thread_local Scratch a_buffer;
thread_local Scratch b_buffer;
thread_local Scratch row_buffer;

/// Columns that a task looks at, and values of a that a task quantizes, at least.
constexpr int64_t kColumnsPerTask = 512;
constexpr int64_t kValuesPerTask = 8192;

float Load(const float* x) { return *x; }
float Load(const uint16_t* x) { return HalfToFloat(*x); }

Status OutOfMemory() { return Status::Error(ORT_FAIL, "out of memory for the outlier columns of a product."); }

/// Marks the columns where some row reaches the threshold. A NaN reaches nothing.
template <class T>
Status Find(const T* a, int64_t rows, int64_t channels, float threshold, const KernelContext& context, uint8_t* found) {
  std::memset(found, 0, static_cast<size_t>(channels));
  const int64_t tasks = (channels + kColumnsPerTask - 1) / kColumnsPerTask;
  return context.ParallelFor(static_cast<size_t>(tasks), [=](size_t task) {
    const int64_t begin = static_cast<int64_t>(task) * kColumnsPerTask;
    const int64_t end = std::min(channels, begin + kColumnsPerTask);
    for (int64_t m = 0; m < rows; ++m) {
      const T* row = a + m * channels;
      for (int64_t k = begin; k < end; ++k) found[k] |= std::fabs(Load(row + k)) >= threshold;
    }
  });
}

struct Codes8 {
  int8_t* q;
  float* scale;
};

/// Quantizes all rows with the columns at `index` taken out, and gathers those.
template <class T>
Status Quantize(const T* a, int64_t rows, int64_t channels, const int32_t* index, int64_t columns, RowFunction quantize,
                const KernelContext& context, const Codes8& codes, float* gathered) {
  RowArgs shared{};
  shared.source = RowSource::kCopy;
  shared.x_stride = channels;
  shared.channels = shared.body = shared.group = channels;
  shared.segments = 1;
  shared.body_codes = {-128.f, 127.f, 1.f / 127.f};
  const int64_t per_task = std::max<int64_t>(1, kValuesPerTask / channels);
  std::atomic<bool> out_of_memory{false};
  LOWBIT_TRY(context.ParallelFor(static_cast<size_t>((rows + per_task - 1) / per_task), [&](size_t task) {
    const int64_t scratch_floats = RowScratchFloats(channels);
    float* scratch = row_buffer.Floats(scratch_floats + channels);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    float* row = scratch + scratch_floats;
    const int64_t begin = static_cast<int64_t>(task) * per_task;
    for (int64_t m = begin; m < std::min(rows, begin + per_task); ++m) {
      for (int64_t k = 0; k < channels; ++k) row[k] = Load(a + m * channels + k);
      for (int64_t c = 0; c < columns; ++c) {
        gathered[m * columns + c] = row[index[c]];
        row[index[c]] = 0.f;
      }
      RowArgs args = shared;
      args.x = row;
      args.q = codes.q + m * channels;
      args.scale = codes.scale + m;
      quantize(args, 0, 1, scratch);
    }
  }));
  return out_of_memory ? OutOfMemory() : Status::Ok();
}

Status GatherWeights(const Args& args, const int32_t* index, int64_t columns, const KernelContext& context,
                     uint8_t* gathered) {
  const int64_t per_task = std::max<int64_t>(1, kValuesPerTask / columns);
  return context.ParallelFor(static_cast<size_t>((args.n + per_task - 1) / per_task), [=](size_t task) {
    const int64_t begin = static_cast<int64_t>(task) * per_task;
    for (int64_t n = begin; n < std::min(args.n, begin + per_task); ++n) {
      for (int64_t c = 0; c < columns; ++c) gathered[n * columns + c] = args.b[n * args.b_row + index[c]];
    }
  });
}

template <class T>
Status Split(const Args& args, float threshold, int64_t rows, RowFunction quantize, const KernelContext& context,
             ColumnSplit* split) {
  const int64_t channels = args.body;
  const T* a = static_cast<const T*>(args.a);
  auto* found = static_cast<uint8_t*>(found_buffer.Reserve(channels));
  auto* index = static_cast<int32_t*>(index_buffer.Reserve(channels * 4));
  const Codes8 codes{static_cast<int8_t*>(codes_buffer.Reserve(rows * channels)), scale_buffer.Floats(rows)};
  if (!found || !index || !codes.q || !codes.scale) return OutOfMemory();
  int64_t columns = 0;
  if (threshold > 0.f) {
    LOWBIT_TRY(Find(a, rows, channels, threshold, context, found));
    for (int64_t k = 0; k < channels; ++k) {
      if (found[k]) index[columns++] = static_cast<int32_t>(k);
    }
  }
  float* gathered = a_buffer.Floats(rows * columns);
  auto* weights = static_cast<uint8_t*>(b_buffer.Reserve(args.n * columns));
  if (columns > 0 && (!gathered || !weights)) return OutOfMemory();
  LOWBIT_TRY(Quantize(a, rows, channels, index, columns, quantize, context, codes, gathered));
  if (columns > 0) LOWBIT_TRY(GatherWeights(args, index, columns, context, weights));
  *split = {codes.q, codes.scale, columns, gathered, weights};
  return Status::Ok();
}

}  // namespace

Status SplitColumns(const Args& args, float threshold, int64_t rows, RowFunction quantize, const KernelContext& context,
                    ColumnSplit* split) {
  return args.half ? Split<uint16_t>(args, threshold, rows, quantize, context, split)
                   : Split<float>(args, threshold, rows, quantize, context, split);
}

Args OutlierProduct(const ColumnSplit& split, const Args& args) {
  Args product{};
  product.n = args.n;
  product.body = product.segment = product.b_row = split.columns;
  product.segments = product.b_scale_row = 1;
  product.a = split.a;
  product.b = split.b;
  product.b_scale = args.b_scale;
  product.residual = args.residual;
  product.y = args.y;
  product.half = args.half;
  return product;
}

}  // namespace lowbit::gemm
