#include "native/core/kernel_choice.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>
#include <string_view>

namespace lowbit {
namespace {

std::mutex mutex;
std::atomic<uint32_t> generation{1};

std::map<std::string, std::string>& Forced() {
  static std::map<std::string, std::string> forced;
  return forced;
}

const std::vector<std::string>& Environment() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    const char* text = std::getenv("ORT_LOWBIT_FORCE_KERNEL");
    std::stringstream words(text ? text : "");
    for (std::string word; std::getline(words, word, ',');) {
      if (!word.empty()) list.push_back(word);
    }
    return list;
  }();
  return names;
}

bool Belongs(const std::string& forced, const std::vector<KernelRow>& rows) {
  return std::any_of(rows.begin(), rows.end(), [&](const KernelRow& row) { return NameMatches(forced, row.name); });
}

}  // namespace

void ForceKernel(const std::string& op, const char* name) {
  const std::lock_guard lock(mutex);
  if (name == nullptr) {
    Forced().erase(op);
  } else {
    Forced()[op] = name;
  }
  generation.fetch_add(1, std::memory_order_release);
}

std::string ForcedKernel(const std::string& op, const std::vector<KernelRow>& rows) {
  const std::lock_guard lock(mutex);
  if (const auto found = Forced().find(op); found != Forced().end()) return found->second;
  for (const std::string& name : Environment()) {
    if (Belongs(name, rows)) return name;
  }
  return "";
}

bool NameMatches(const std::string& forced, const char* name) {
  const std::string_view full(name);
  const size_t arch = full.rfind("__");
  return forced == full || (arch != std::string_view::npos && forced == full.substr(arch + 2));
}

uint32_t ForceGeneration() { return generation.load(std::memory_order_acquire); }

}  // namespace lowbit
