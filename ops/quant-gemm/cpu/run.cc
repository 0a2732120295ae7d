#include "ops/quant-gemm/cpu/run.h"

#include <algorithm>
#include <atomic>

#include "native/core/scratch.h"

namespace lowbit::gemm {
namespace {

// A packed block is written by the thread that runs the operator (or its helpers, while it waits) and is read until the
// block is done; scratch never outlives a task. So both may belong to the thread.
thread_local Scratch packed_buffer;
thread_local Scratch scratch_buffer;
thread_local Scratch codes_buffer;

/// Products of this many multiply-adds (about 3 µs of work) are not worth waking a thread for.
constexpr int64_t kTaskWork = 1 << 20;
constexpr int64_t kPackTaskBytes = 1 << 17;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Columns per task: enough work to pay for the hand-over, at least `kTasks` tasks when there is that much, so that
/// threads which start late or lose their core leave the rest to others.
int64_t ColumnsPerTask(const GemmKernel& kernel, const Args& args, int64_t rows) {
  constexpr int64_t kTasks = 16;
  const int64_t per_tile = std::max<int64_t>(1, rows * (args.body + args.outliers) * kernel.tile_cols);
  const int64_t tiles = Ceil(args.n, kernel.tile_cols);
  return kernel.tile_cols * std::max(Ceil(tiles, kTasks), Ceil(kTaskWork, per_tile));
}

/// Replaces args->a by a copy whose body codes are two's complement. A format for other chips: correct here, not fast.
Status MakeTwosComplement(int64_t rows, const KernelContext& context, Args* args) {
  const int64_t row_bytes = args->body + args->outliers, bytes = rows * row_bytes;
  auto* copy = static_cast<int8_t*>(codes_buffer.Reserve(bytes));
  if (copy == nullptr) return Status::Error(ORT_FAIL, "out of memory for ", bytes, " bytes of activations.");
  const auto* codes = static_cast<const int8_t*>(args->a);
  const int64_t tasks = std::clamp<int64_t>(bytes / kPackTaskBytes, 1, rows);
  const int64_t body = args->body;
  args->a = copy;
  return context.ParallelFor(static_cast<size_t>(tasks), [=](size_t task) {
    const int64_t i = static_cast<int64_t>(task);
    for (int64_t r = i * rows / tasks; r < (i + 1) * rows / tasks; ++r) {
      const int8_t* from = codes + r * row_bytes;
      int8_t* to = copy + r * row_bytes;
      for (int64_t k = 0; k < body; ++k) to[k] = static_cast<int8_t>(from[k] < 0 ? -(from[k] & 0x7f) : from[k]);
      std::copy(from + body, from + row_bytes, to + body);
    }
  });
}

Status RunBlock(const GemmKernel& kernel, const Args& args, Block block, const KernelContext& context) {
  void* packed = nullptr;
  if (const int64_t bytes = kernel.packed_bytes(args, block.rows)) {
    packed = packed_buffer.Reserve(bytes);
    if (packed == nullptr) return Status::Error(ORT_FAIL, "out of memory for ", bytes, " bytes of packed activations.");
    const int64_t panels = Panels(block.rows, kernel.panel_rows).count;
    const int64_t tasks = std::clamp<int64_t>(bytes / kPackTaskBytes, 1, panels);
    LOWBIT_TRY(context.ParallelFor(static_cast<size_t>(tasks), [&](size_t task) {
      const int64_t i = static_cast<int64_t>(task);
      kernel.pack(args, block, i * panels / tasks, (i + 1) * panels / tasks, packed);
    }));
  }
  const int64_t columns = ColumnsPerTask(kernel, args, block.rows);
  const int64_t scratch_bytes = kernel.scratch_bytes(args, block.rows);
  std::atomic<bool> out_of_memory = false;
  LOWBIT_TRY(context.ParallelFor(static_cast<size_t>(Ceil(args.n, columns)), [&](size_t task) {
    void* scratch = scratch_buffer.Reserve(scratch_bytes);
    if (scratch == nullptr && scratch_bytes > 0) {
      out_of_memory = true;
      return;
    }
    const int64_t begin = static_cast<int64_t>(task) * columns;
    kernel.run(args, {block.row, block.rows, begin, std::min(args.n, begin + columns)}, packed, scratch);
  }));
  if (out_of_memory) return Status::Error(ORT_FAIL, "out of memory for ", scratch_bytes, " bytes of scratch.");
  return Status::Ok();
}

}  // namespace

Status RunGemm(const GemmKernel& kernel, const Args& caller_args, int64_t rows, const KernelContext& context) {
  Args args = caller_args;
  if (args.a_sign_magnitude) LOWBIT_TRY(MakeTwosComplement(rows, context, &args));
  // Equal blocks: 257 rows are 129 and 128, not 256 and 1.
  const int64_t blocks = Ceil(rows, kernel.max_rows);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = i * rows / blocks, end = (i + 1) * rows / blocks;
    LOWBIT_TRY(RunBlock(kernel, args, {begin, end - begin, 0, args.n}, context));
  }
  return Status::Ok();
}

}  // namespace lowbit::gemm
