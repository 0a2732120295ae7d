// Tensors across the JavaScript border. There a value is {type, dims, data}: type is ONNX's element type number, data a
// Uint8Array over the elements' bytes or a string[]. A tensor on a device is its handle alone.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime.h"

namespace lowbit::host {

/// A value on its way into or out of a run. Shared with its JavaScript handle when it lives on a device.
using SharedValue = std::shared_ptr<OrtValue>;

/// An ORT view on the JavaScript memory (strings are copied). The caller keeps `value` referenced while the view lives.
SharedValue ValueFromJs(Napi::Value given);

/// The value as JavaScript sees it. Large results keep ORT's memory under an external ArrayBuffer; small ones, and any
/// that overlap `inputs` (a model may return an input as it is), are copied: an ArrayBuffer must be the only owner.
Napi::Object ValueToJs(Napi::Env env, SharedValue value, const std::vector<SharedValue>& inputs);

struct TensorFacts {
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
  size_t count;       // elements
  size_t byte_count;  // 0 for strings
};
/// Throws std::runtime_error for what is no tensor.
TensorFacts FactsOf(const OrtValue* value);
Napi::Array DimsToJs(Napi::Env env, const std::vector<int64_t>& dims);
std::vector<int64_t> DimsFromJs(Napi::Value dims);

/// Bytes of `count` elements, packed types rounded up to whole bytes; throws for types without a fixed size.
size_t ByteCount(ONNXTensorElementDataType type, size_t count);

}  // namespace lowbit::host
