#include "values.h"

#include <cstring>
#include <string>
#include <utility>

#include "device.h"

namespace lowbit::host {
namespace {

// Below this a copy costs less than an external buffer with its finalizer.
constexpr size_t kCopyBelowBytes = 16 * 1024;

// ORT wants an address for empty tensors too.
alignas(64) unsigned char g_nothing[64];

const OrtMemoryInfo* CpuMemory() {
  static const OrtMemoryInfo* const kMemory = [] {
    OrtMemoryInfo* memory = nullptr;
    Check(Api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    return memory;
  }();
  return kMemory;
}

SharedValue Own(OrtValue* value) { return ValuePtr(value); }

SharedValue StringsFromJs(Napi::Array strings, const std::vector<int64_t>& dims) {
  OrtAllocator* allocator = nullptr;
  Check(Api().GetAllocatorWithDefaultOptions(&allocator));
  OrtValue* raw = nullptr;
  Check(Api().CreateTensorAsOrtValue(allocator, dims.data(), dims.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, &raw));
  SharedValue value = Own(raw);
  for (uint32_t i = 0; i < strings.Length(); ++i) {
    const Napi::HandleScope scope(strings.Env());
    const std::string text = strings.Get(i).As<Napi::String>();
    char* buffer = nullptr;  // by length, not as a C string: a text may hold zeros
    Check(Api().GetResizedStringTensorElementBuffer(raw, i, text.size(), &buffer));
    std::memcpy(buffer, text.data(), text.size());
  }
  return value;
}

Napi::Array StringsToJs(Napi::Env env, const OrtValue* value, size_t count) {
  auto out = Napi::Array::New(env, count);
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    const Napi::HandleScope scope(env);
    size_t length = 0;
    Check(Api().GetStringTensorElementLength(value, i, &length));
    text.resize(length);
    Check(Api().GetStringTensorElement(value, length, i, text.data()));
    out.Set(static_cast<uint32_t>(i), text);
  }
  return out;
}

void* DataOf(const SharedValue& value) {
  void* data = nullptr;
  Check(Api().GetTensorMutableData(value.get(), &data));
  return data;
}

bool Overlaps(const void* data, size_t byte_count, const std::vector<SharedValue>& inputs) {
  const auto* begin = static_cast<const char*>(data);
  for (const auto& input : inputs) {
    const TensorFacts facts = FactsOf(input.get());
    if (facts.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING) continue;
    const auto* other = static_cast<const char*>(DataOf(input));
    if (begin < other + facts.byte_count && other < begin + byte_count) return true;
  }
  return false;
}

Napi::Value BytesToJs(Napi::Env env, const SharedValue& value, size_t byte_count,
                      const std::vector<SharedValue>& inputs) {
  void* data = DataOf(value);
  if (byte_count >= kCopyBelowBytes && !Overlaps(data, byte_count, inputs)) {
    auto* held = new SharedValue(value);
    napi_value buffer = nullptr;
    const auto release = [](napi_env, void*, void* hint) { delete static_cast<SharedValue*>(hint); };
    if (napi_create_external_arraybuffer(env, data, byte_count, release, held, &buffer) == napi_ok) {
      return Napi::Value(env, buffer);
    }
    delete held;  // runtimes with a memory cage (Electron) refuse external buffers
  }
  auto copy = Napi::ArrayBuffer::New(env, byte_count);
  if (byte_count) std::memcpy(copy.Data(), data, byte_count);
  return copy;
}

}  // namespace

size_t ByteCount(ONNXTensorElementDataType type, size_t count) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ:
      return count;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return count * 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32:
      return count * 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64:
      return count * 8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4:
      return (count + 1) / 2;
    default:
      throw std::runtime_error("tensor: its ONNX element type " + std::to_string(type) + " has no JavaScript form.");
  }
}

std::vector<int64_t> DimsFromJs(Napi::Value dims) {
  const auto array = dims.As<Napi::Array>();
  std::vector<int64_t> out(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) out[i] = array.Get(i).As<Napi::Number>().Int64Value();
  return out;
}

Napi::Array DimsToJs(Napi::Env env, const std::vector<int64_t>& dims) {
  auto out = Napi::Array::New(env, dims.size());
  for (uint32_t i = 0; i < dims.size(); ++i) out.Set(i, static_cast<double>(dims[i]));
  return out;
}

TensorFacts FactsOf(const OrtValue* value) {
  int is_tensor = 0;
  if (value) Check(Api().IsTensor(value, &is_tensor));
  if (!is_tensor) throw std::runtime_error("output: is no tensor, expected only tensors at the border of a model.");
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  Check(Api().GetTensorTypeAndShape(value, &raw));
  const ShapeInfoPtr info(raw);
  TensorFacts facts{};
  size_t rank = 0;
  Check(Api().GetTensorElementType(raw, &facts.type));
  Check(Api().GetDimensionsCount(raw, &rank));
  facts.dims.resize(rank);
  Check(Api().GetDimensions(raw, facts.dims.data(), rank));
  Check(Api().GetTensorShapeElementCount(raw, &facts.count));
  if (facts.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING) facts.byte_count = ByteCount(facts.type, facts.count);
  return facts;
}

SharedValue ValueFromJs(Napi::Value given) {
  if (given.IsExternal()) return DeviceTensorFromJs(given).value;
  const auto value = given.As<Napi::Object>();
  const Napi::Value data = value.Get("data");
  const auto dims = DimsFromJs(value.Get("dims"));
  if (data.IsArray()) return StringsFromJs(data.As<Napi::Array>(), dims);
  const auto type = static_cast<ONNXTensorElementDataType>(value.Get("type").As<Napi::Number>().Int32Value());
  auto view = data.As<Napi::Uint8Array>();
  void* bytes = view.ByteLength() ? view.Data() : g_nothing;
  OrtValue* raw = nullptr;
  Check(Api().CreateTensorWithDataAsOrtValue(CpuMemory(), bytes, view.ByteLength(), dims.data(), dims.size(), type,
                                             &raw));
  return Own(raw);
}

Napi::Object ValueToJs(Napi::Env env, SharedValue value, const std::vector<SharedValue>& inputs) {
  const TensorFacts facts = FactsOf(value.get());
  auto out = Napi::Object::New(env);
  out.Set("type", static_cast<int>(facts.type));
  out.Set("dims", DimsToJs(env, facts.dims));
  out.Set("data", facts.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING
                      ? Napi::Value(StringsToJs(env, value.get(), facts.count))
                      : BytesToJs(env, value, facts.byte_count, inputs));
  return out;
}

}  // namespace lowbit::host
