#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "native/core/cpu_features.h"
#include "native/core/kernel_choice.h"
#include "native/oplib/library.h"
#include "ops/register.h"
#if LOWBIT_CUDA
#include "ops/quant-gemm/cuda/run.h"
#include "ops/quant-kv-attention/cuda/run.h"
#endif

namespace lowbit {
namespace {

const char* PortTypeName(PortType type, const OpDefinition& op) {
  switch (type) {
    case PortType::kT:
      return "T";
    case PortType::kA:
      return "int8|T";
    case PortType::kB:
      return "uint8|int8";
    default:
      return TypeName(ResolveType(type, op.overloads.front()));
  }
}

struct NamedKernel {
  std::string_view op;
  const char* name;
  bool available;
};

/// The CUDA kernels of operators that choose; the row operators have one each, for any device.
std::vector<NamedKernel> CudaKernels() {
  std::vector<NamedKernel> kernels;
#if LOWBIT_CUDA
  for (const CudaKernelRow& row : QuantGemmCudaKernels()) kernels.push_back({"QuantGemm", row.name, row.available});
  for (const CudaKernelRow& row : QuantKvAttentionCudaKernels())
    kernels.push_back({"QuantKvAttention", row.name, row.available});
#endif
  return kernels;
}

/// Writes `items` as a JSON list, one call of `write` for each.
template <class Items, class Write>
void List(std::ostream& out, const char* key, const Items& items, const Write& write) {
  out << '"' << key << "\":[";
  bool first = true;
  for (const auto& item : items) {
    out << (first ? "" : ",");
    first = false;
    write(item);
  }
  out << ']';
}

void WriteOp(std::ostream& out, const OpDefinition& op) {
  const auto port = [&](const Port& p) {
    out << "{\"name\":\"" << p.name << "\",\"type\":\"" << PortTypeName(p.type, op)
        << "\",\"optional\":" << (p.optional ? "true" : "false") << '}';
  };
  out << "{\"type\":\"" << op.name << "\",\"since\":" << op.since << ',';
  List(out, "inputs", op.inputs, port);
  out << ',';
  List(out, "outputs", op.outputs, port);
  out << ',';
  List(out, "attributes", op.attributes, [&](const AttributeSpec& a) {
    out << "{\"name\":\"" << a.name << "\",\"type\":\"" << a.type << '"';
    const char* quote = std::string_view(a.type) == "string" ? "\"" : "";
    if (a.default_value != nullptr) out << ",\"default\":" << quote << a.default_value << quote;
    out << '}';
  });
  out << '}';
}

std::string Describe() {
  static constexpr struct {
    uint32_t bit;
    const char* name;
  } kFeatures[] = {
      {kCpuAvx2, "avx2"}, {kCpuAvx512, "avx512"}, {kCpuAvx512Vnni, "avx512vnni"}, {kCpuAvx512Bf16, "avx512bf16"}};

  std::ostringstream out;
  out << "{\"version\":\"" LOWBIT_VERSION "\",";
  List(out, "ops", AllOps(), [&](const OpDefinition* op) { WriteOp(out, *op); });
  std::vector<const char*> features;
  for (const auto& [bit, name] : kFeatures) {
    if (CpuFeatures() & bit) features.push_back(name);
  }
  out << ",\"cpu\":{";
  List(out, "features", features, [&](const char* name) { out << '"' << name << '"'; });
  std::vector<NamedKernel> kernels;
  for (const OpDefinition* op : AllOps()) {
    for (const KernelRow& row : op->kernels()) kernels.push_back({op->name, row.name, Available(row)});
  }
  for (const NamedKernel& kernel : CudaKernels()) kernels.push_back(kernel);
  out << "},";
  List(out, "kernels", kernels, [&](const NamedKernel& kernel) {
    out << "{\"op\":\"" << kernel.op << "\",\"name\":\"" << kernel.name
        << "\",\"available\":" << (kernel.available ? "true" : "false") << '}';
  });
  std::vector<std::string> archs;
  std::stringstream words(LOWBIT_CUDA_ARCHS);
  for (std::string word; std::getline(words, word, ',');) archs.push_back(word);
  out << ",\"cuda\":{\"built\":" << (LOWBIT_CUDA ? "true" : "false") << ',';
  List(out, "archs", archs, [&](const std::string& arch) { out << '"' << arch << '"'; });
  out << "}}";
  return out.str();
}

int Force(const std::string& op_name, const char* name) {
  for (const OpDefinition* op : AllOps()) {
    if (op_name != op->name) continue;
    bool known = name == nullptr, available = known;
    for (const KernelRow& row : op->kernels()) {
      if (name == nullptr || !NameMatches(name, row.name)) continue;
      known = true;
      available |= Available(row);
    }
    for (const NamedKernel& kernel : CudaKernels()) {
      if (name == nullptr || op_name != kernel.op || !NameMatches(name, kernel.name)) continue;
      known = true;
      available |= kernel.available;
    }
    if (known && available) ForceKernel(op_name, name);
    return !known ? 2 : !available ? 3 : 0;
  }
  return 1;
}

}  // namespace
}  // namespace lowbit

const char* OrtLowbitDescribe() {
  try {
    static const std::string text = lowbit::Describe();
    return text.c_str();
  } catch (...) {
    return "{}";  // out of memory
  }
}

int OrtLowbitForceKernel(const char* op, const char* name) {
  try {
    return op == nullptr ? 1 : lowbit::Force(op, name);
  } catch (...) {
    return 2;
  }
}
