// Which of an operator's CPU kernels runs: the first usable one, unless another is forced by name.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "native/core/cpu_features.h"

namespace lowbit {

/// What selection and OrtLowbitDescribe know of a kernel. An operator's table lists its fastest kernels first and ends
/// with portable ones, which need nothing and accept everything.
struct KernelRow {
  const char* name;  // "<a><b>_<out>_<tile>__<arch>"
  uint32_t needs;    // CpuFeature bits
};

inline bool Available(const KernelRow& row) { return (row.needs & ~CpuFeatures()) == 0; }

/// Forces kernels of `op` for all later runs in the process: a full name, or an architecture ("avx2") to take all
/// kernels for it. nullptr: choose by speed again. The caller has checked the name.
void ForceKernel(const std::string& op, const char* name);

/// The name forced by ForceKernel, else the first of the comma-separated names in the environment variable
/// ORT_LOWBIT_FORCE_KERNEL (read once) that belongs to one of the rows; empty if there is none.
std::string ForcedKernel(const std::string& op, const std::vector<KernelRow>& rows);

/// Whether `forced` (a full name or an architecture) means the kernel `name`.
bool NameMatches(const std::string& forced, const char* name);

/// Counts ForceKernel calls.
uint32_t ForceGeneration();

/// One node's choice, made at its first run and again after a ForceKernel. Safe to use from several threads.
class KernelChoice {
 public:
  /// The index of the first available row that is accepted and, if possible, forced. `accepts(index)` tells whether row
  /// `index` can do this node's work; the last accepted row must need nothing.
  template <class Rows, class Accepts>
  size_t Get(const char* op, const Rows& rows, const Accepts& accepts) {
    const uint32_t now = ForceGeneration();
    const uint64_t cached = cached_.load(std::memory_order_relaxed);
    if (cached >> 32 == now) return static_cast<uint32_t>(cached);
    const std::vector<KernelRow> list = rows();
    const std::string forced = ForcedKernel(op, list);
    size_t chosen = list.size();
    for (size_t i = list.size(); i-- > 0;) {
      if (!Available(list[i]) || !accepts(i)) continue;
      const bool better = chosen == list.size() || forced.empty() || NameMatches(forced, list[i].name) ||
                          !NameMatches(forced, list[chosen].name);
      if (better) chosen = i;
    }
    cached_.store(uint64_t{now} << 32 | chosen, std::memory_order_relaxed);
    return chosen;
  }

 private:
  std::atomic<uint64_t> cached_{0};
};

}  // namespace lowbit
