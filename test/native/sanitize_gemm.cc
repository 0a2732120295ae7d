// Runs every QuantGemm kernel of this CPU over buffers of exactly the size they may touch, for scripts/sanitize.mjs:
// the sanitizers see each access beyond an end.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "native/core/cpu_features.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

struct Case {
  int64_t rows, k, n, outliers, group;
};
constexpr Case kCases[] = {{1, 101, 4, 4, 0},        {3, 208, 20, 16, 96}, {2, 333, 36, 0, 0}, {17, 101, 5, 4, 0},
                           {13, 384, 100, 128, 128}, {5, 48, 33, 16, 16},  {30, 75, 20, 0, 0}};

/// Elements in a block of memory of their own, aligned where kernels ask for it.
template <class T>
class Exact {
 public:
  explicit Exact(int64_t count, T value = T{}) : data_(static_cast<T*>(Allocate(count))) {
    for (int64_t i = 0; i < count; ++i) data_[i] = value;
  }
  Exact(const Exact&) = delete;
  ~Exact() { std::free(data_); }
  T* get() const { return data_; }

 private:
  static void* Allocate(int64_t count) {
    void* memory = nullptr;
    const int failed = posix_memalign(&memory, 64, static_cast<size_t>(count > 0 ? count : 1) * sizeof(T));
    return failed ? nullptr : memory;
  }
  T* data_;
};

bool Available(uint32_t needs) { return (needs & ~CpuFeatures()) == 0; }

bool RunKernel(const GemmKernel& kernel, const Case& c, bool half) {
  const bool floats = kernel.a == Codes::kFloat;
  const int64_t outliers = floats ? 0 : c.outliers, body = c.k - outliers, group = c.group ? c.group : body;
  if (!Available(kernel.needs) || body % group != 0 || !kernel.accepts({c.rows, c.n, group, body / group}))
    return false;
  const int64_t size = half ? 2 : 4, b_row = IsNibble(kernel.b) ? (body + 1) / 2 : body;
  const std::vector<float> values(256, 0.5f);
  Exact<uint8_t> a(c.rows * (body + outliers) * (floats ? size : 1)), b(c.n * b_row), bias(c.n * size),
      y(c.rows * c.n * size);
  Exact<float> a_scale(c.rows * (outliers ? 2 : 1), 1.0f);
  Exact<uint16_t> b_scale(c.n * (body / group), 0x3c00), b_outlier_scale(c.n, 0x3c00);
  Exact<int8_t> b_outlier(c.n * outliers, 1);
  Args args{};
  args.n = c.n;
  args.body = body;
  args.segment = group;
  args.segments = args.b_scale_row = body / group;
  args.outliers = args.b_outlier_row = outliers;
  args.a = a.get();
  args.a_scale = a_scale.get();
  args.a_values = values.data();
  args.a_scale_row = outliers ? 2 : 1;
  args.b = b.get();
  args.b_row = b_row;
  args.b_scale = b_scale.get();
  args.b_scale_step = 1;
  args.b_outlier = b_outlier.get();
  args.b_outlier_scale = b_outlier_scale.get();
  args.bias = bias.get();
  args.residual = args.y = y.get();
  args.half = args.half_a = half;
  Exact<uint8_t> packed(kernel.packed_bytes(args, c.rows)), scratch(kernel.scratch_bytes(args, c.rows));
  const Block block{0, c.rows, 0, c.n};
  kernel.pack(args, block, 0, Panels(c.rows, kernel.panel_rows).count, packed.get());
  kernel.run(args, block, packed.get(), scratch.get());
  return true;
}

bool RunLorcUp(const LorcUpKernel& kernel, int64_t rows, int64_t n, int64_t codes, bool half) {
  if (!Available(kernel.needs)) return false;
  Exact<float> inner(rows * codes, 1.0f), tile(codes * kernel.columns);
  Exact<int8_t> up(n * codes, 1);
  Exact<uint16_t> scale(n, 0x3c00);
  Exact<uint8_t> y(rows * n * (half ? 2 : 4));
  kernel.run({rows, n, codes, inner.get(), up.get(), scale.get(), y.get(), y.get(), half}, 0, n, tile.get());
  return true;
}

int RunAll() {
  int runs = 0;
  for (const bool half : {false, true}) {
    for (const Table& table : {FloatRowAvx512Kernels(), Avx512VnniKernels(), MinifloatAvx512Bf16Kernels(),
                               MinifloatAvx512Kernels(), Avx2Kernels(), MinifloatAvx2Kernels(), ScalarKernels()}) {
      for (int i = 0; i < table.count; ++i) {
        for (const Case& c : kCases) runs += RunKernel(table.rows[i], c, half);
      }
    }
    for (const LorcUpKernel& kernel : {LorcUpScalar(), LorcUpAvx2(), LorcUpAvx512()}) {
      for (const int64_t codes : {1, 3, 8, 10}) {
        for (const int64_t n : {1, 5, 33, 64}) {
          for (const int64_t rows : {1, 4, 7}) runs += RunLorcUp(kernel, rows, n, codes, half);
        }
      }
    }
  }
  return runs;
}

}  // namespace
}  // namespace lowbit::gemm

int main() {
  std::printf("gemm kernels: %d products, no access out of bounds\n", lowbit::gemm::RunAll());
  return 0;
}
