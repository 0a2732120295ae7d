#include "ops/quant-kv-attention/cpu/run.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "native/core/scratch.h"

namespace lowbit::kv {
namespace {

/// Floats of queries a task holds at most: with as many sums they stay in the second-level cache.
constexpr int64_t kQueryFloats = 8192;
/// Tokens that one task stores.
constexpr int64_t kStoreTokens = 64;
/// Where keys are shared among tasks: some more tasks than threads, as not all threads begin at once.
constexpr int64_t kTasksPerThread = 2;

thread_local Scratch scratch_of_thread;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Rows [begin, end) of a head in the present cache that are older than `start`, from the past; those from `length` on
/// are cleared, so that outputs do not depend on what memory held before.
template <class T>
void BringOver(const T* past, int64_t past_rows, T* present, int64_t present_rows, int64_t head, int64_t width,
               int64_t begin, int64_t end, int64_t start, int64_t length) {
  if (past == present) return;
  const int64_t copy_end = std::min(end, start);
  T* to = present + head * present_rows * width;
  if (begin < copy_end) {
    std::memcpy(to + begin * width, past + (head * past_rows + begin) * width,
                static_cast<size_t>((copy_end - begin) * width) * sizeof(T));
  }
  const int64_t clear_begin = std::max(begin, length);
  if (clear_begin < end) {
    std::memset(to + clear_begin * width, 0, static_cast<size_t>((end - clear_begin) * width) * sizeof(T));
  }
}

void BringOver(const Args& args, const Cache& past, const Cache& present, int64_t b, int64_t head, int64_t begin,
               int64_t end) {
  const int64_t start = args.Start(b), length = args.lengths[b];
  BringOver(past.codes, past.rows, present.codes, present.rows, head, args.row_bytes, begin, end, start, length);
  BringOver(past.params, past.rows, present.params, present.rows, head, int64_t{2}, begin, end, start, length);
}

/// Threads that a session may have.
int64_t Threads() {
  static const int64_t threads = std::max<int64_t>(1, std::thread::hardware_concurrency());
  return threads;
}

struct Cut {
  int64_t tokens, blocks;  // new tokens of a task, and how many such blocks a head has
  int64_t parts;           // of the longest sequence
  int64_t shares;          // tasks that share the parts of a block of a head
};

/// Attention for few heads and queries: the keys of each are shared among several tasks.
Status AttendShared(const Kernel& kernel, const Args& args, int64_t batch, const Cut& cut,
                    const KernelContext& context) {
  const int64_t all = batch * args.kv_heads * cut.blocks, part_floats = PartFloats(args, cut.tokens);
  const int64_t floats = ScratchFloats(args, cut.tokens);
  Temporary memory;
  LOWBIT_TRY(context.Allocate(static_cast<size_t>(all * cut.parts * part_floats) * sizeof(float), &memory));
  auto* const sums = static_cast<float*>(memory.data());
  std::atomic<bool> out_of_memory{false};
  const auto each = [&](int64_t work, const auto& run) {
    float* scratch = scratch_of_thread.Floats(floats);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    const int64_t head = work / cut.blocks, begin = work % cut.blocks * cut.tokens;
    const int64_t end = std::min(args.tokens, begin + cut.tokens);
    run(head / args.kv_heads, head % args.kv_heads, begin, end, sums + work * cut.parts * part_floats, scratch);
  };
  LOWBIT_TRY(context.ParallelFor(static_cast<size_t>(all * cut.shares), [&](size_t task) {
    const int64_t share = static_cast<int64_t>(task) % cut.shares;
    const int64_t first = cut.parts * share / cut.shares, last = cut.parts * (share + 1) / cut.shares;
    each(static_cast<int64_t>(task) / cut.shares,
         [&](int64_t b, int64_t head, int64_t begin, int64_t end, float* parts, float* scratch) {
           parts += first * PartFloats(args, end - begin);
           kernel.attend_parts(args, b, head, begin, end, first, last, parts, scratch);
         });
  }));
  LOWBIT_TRY(context.ParallelFor(static_cast<size_t>(all), [&](size_t task) {
    each(static_cast<int64_t>(task),
         [&](int64_t b, int64_t head, int64_t begin, int64_t end, const float* parts, float* scratch) {
           kernel.join_parts(args, b, head, begin, end, cut.parts, parts, scratch);
         });
  }));
  if (out_of_memory) return Status::Error(ORT_FAIL, "out of memory for ", floats * 4, " bytes of scratch.");
  return Status::Ok();
}

}  // namespace

const Kernel* const* AllKernels(size_t* count) {
  static const std::vector<const Kernel*> kernels = [] {
    std::vector<const Kernel*> all;
    for (const Kernel* table : {
#if defined(__x86_64__)
           Avx512Kernels(), Avx2Kernels(),
#endif
               ScalarKernels()
         }) {
      for (int i = 0; i < kKernelsPerArch; ++i) all.push_back(table + i);
    }
    return all;
  }();
  *count = kernels.size();
  return kernels.data();
}

Status RunAttention(const Kernel& kernel, const Args& args, int64_t batch, const KernelContext& context) {
  std::atomic<bool> out_of_memory{false};
  const int64_t all_heads = batch * args.kv_heads;
  const int64_t group = args.heads / args.kv_heads;

  const int64_t pieces = std::max<int64_t>(1, Ceil(args.tokens, kStoreTokens));
  LOWBIT_TRY(context.ParallelFor(static_cast<size_t>(all_heads * pieces), [&](size_t task) {
    const int64_t head = static_cast<int64_t>(task) / pieces, piece = static_cast<int64_t>(task) % pieces;
    const int64_t b = head / args.kv_heads;
    for (const auto& [past, present] : {std::pair(&args.past_k, &args.present_k), {&args.past_v, &args.present_v}}) {
      BringOver(args, *past, *present, b, head, present->rows * piece / pieces, present->rows * (piece + 1) / pieces);
    }
    float* scratch = scratch_of_thread.Floats(args.head_dim);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    kernel.store(args, b, head % args.kv_heads, piece * kStoreTokens, std::min(args.tokens, (piece + 1) * kStoreTokens),
                 scratch);
  }));

  const int64_t tokens =
      std::clamp<int64_t>(kQueryFloats / (args.head_dim * group), 1, std::max<int64_t>(1, args.tokens));
  const int64_t blocks = Ceil(args.tokens, tokens);
  const int64_t floats = ScratchFloats(args, tokens);
  const int64_t longest = *std::max_element(args.lengths, args.lengths + batch);
  const int64_t parts = Ceil(longest, kPartKeys), tasks = all_heads * blocks;
  const int64_t shares = std::min(parts, Ceil(kTasksPerThread * Threads(), std::max<int64_t>(1, tasks)));
  if (tasks > 0 && tasks < Threads() && shares > 1) {
    return AttendShared(kernel, args, batch, {tokens, blocks, parts, shares}, context);
  }
  LOWBIT_TRY(context.ParallelFor(static_cast<size_t>(all_heads * blocks), [&](size_t task) {
    float* scratch = scratch_of_thread.Floats(floats);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    // Late queries see most keys: they go first, so that no long task is left at the end.
    const int64_t block = blocks - 1 - static_cast<int64_t>(task) / all_heads;
    const int64_t head = static_cast<int64_t>(task) % all_heads, begin = block * tokens;
    kernel.attend(args, head / args.kv_heads, head % args.kv_heads, begin, std::min(args.tokens, begin + tokens),
                  scratch);
  }));
  if (out_of_memory) return Status::Error(ORT_FAIL, "out of memory for ", floats * 4, " bytes of scratch.");
  return Status::Ok();
}

}  // namespace lowbit::kv
