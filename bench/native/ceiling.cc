// Measures what this machine can do at most, for the benchmark's "% of peak": u8 x s8 products (VNNI) and reads of
// memory that fits the last-level cache. Prints one JSON object. CPU time is measured, not wall time, so that other
// processes disturb little.
#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// The best of several runs of `work`, in seconds.
template <class Work>
double Best(const Work& work) {
  double best = 1e9;
  for (int run = 0; run < 7; ++run) {
    const double begin = CpuSeconds();
    work();
    best = std::min(best, CpuSeconds() - begin);
  }
  return best;
}

/// 10^9 multiplications and additions a second of one thread, each vpdpbusd being 64 of both. 24 independent sums.
__attribute__((target("avx512f,avx512vnni"))) double VnniGops() {
  constexpr int64_t kSteps = 400000;
  const double seconds = Best([] {
#define SUM(n) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #n "\n"
    for (int64_t i = 0; i < kSteps; ++i) {
      asm volatile(SUM(0) SUM(1) SUM(2) SUM(3) SUM(4) SUM(5) SUM(6) SUM(7) SUM(8) SUM(9) SUM(10) SUM(11) SUM(12) SUM(13)
                       SUM(14) SUM(15) SUM(16) SUM(17) SUM(18) SUM(19) SUM(20) SUM(21) SUM(22) SUM(23)::
                           : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                             "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20",
                             "xmm21", "xmm22", "xmm23");
    }
#undef SUM
  });
  return static_cast<double>(kSteps) * 24 * 128 / seconds / 1e9;
}

/// GB/s of one thread reading 8 MB again and again.
double ReadGigabytes() {
  std::vector<uint64_t> data(1 << 20, 1);
  volatile uint64_t sink = 0;
  const double seconds = Best([&] {
    for (int pass = 0; pass < 8; ++pass) {
      uint64_t sums[16] = {};
      for (size_t i = 0; i < data.size(); i += 16) {
        for (size_t k = 0; k < 16; ++k) sums[k] += data[i + k];
      }
      for (const uint64_t sum : sums) sink = sink + sum;
    }
  });
  return static_cast<double>(data.size()) * 8 * 8 / seconds / 1e9;
}

}  // namespace

int main() {
  const bool vnni = __builtin_cpu_supports("avx512vnni");
  std::printf("{\"vnniGops\":%.0f,\"readGigabytes\":%.1f}\n", vnni ? VnniGops() : 0.0, ReadGigabytes());
  return 0;
}
