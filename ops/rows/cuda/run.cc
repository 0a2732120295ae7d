#include "ops/rows/cuda/run.h"

#include "native/core/cuda_status.h"
#include "ops/common/cuda/graph_type.h"
#include "ops/rows/cuda/norm_quantize.h"
#include "ops/rows/cuda/quantize.h"

namespace lowbit {
namespace {

cuda::Activation ActivationOf(const RowArgs& args) {
  if (args.source != RowSource::kActivation && args.source != RowSource::kGated) return cuda::Activation::kNone;
  switch (args.activation) {
    case Activation::kSilu:
      return cuda::Activation::kSilu;
    case Activation::kGelu:
      return cuda::Activation::kGelu;
    case Activation::kGeluTanh:
      return cuda::Activation::kGeluTanh;
    case Activation::kRelu:
      return cuda::Activation::kRelu;
  }
  return cuda::Activation::kNone;
}

cuda::RowFormat FormatOf(const RowArgs& args) {
  cuda::RowFormat f;
  f.channels = static_cast<int>(args.channels);
  f.group_size = args.group == args.body ? 0 : static_cast<int>(args.group);
  f.outliers = static_cast<int>(args.channels - args.body);
  const CodeRange& codes = args.body_codes;
  f.format = codes.mantissa == 3    ? cuda::Format::kE4M3
             : codes.mantissa == 2  ? cuda::Format::kE5M2
             : codes.sign_magnitude ? cuda::Format::kS4E4M3
             : codes.max < 127.0f   ? cuda::Format::kS4
                                    : cuda::Format::kS8;
  f.clip_over_qmax = args.body_codes.clip_over_qmax;
  return f;
}

cudaError_t Launch(const RowArgs& args, cuda::DType type, int64_t rows, cudaStream_t stream) {
  if (args.source == RowSource::kRms || args.source == RowSource::kLayer) {
    cuda::NormQuantizeArgs norm;
    norm.type = type;
    norm.x = args.x;
    norm.weight = args.weight;
    norm.bias = args.bias;
    norm.constant_weights = args.constant_weights;
    norm.residual = args.other;
    norm.reorder_index = args.reorder_index;
    norm.q = args.q;
    norm.scale = args.scale;
    norm.sum = args.sum;
    norm.y = args.y;
    norm.rows = rows;
    norm.format = FormatOf(args);
    norm.layer_norm = args.source == RowSource::kLayer;
    norm.epsilon = args.epsilon;
    return cuda::LaunchNormQuantize(norm, stream);
  }
  cuda::QuantizeArgs quantize;
  quantize.type = type;
  quantize.x = args.x;
  quantize.up = args.source == RowSource::kGated ? args.other : nullptr;
  quantize.x_stride = args.x_stride;
  quantize.up_stride = args.other_stride;
  quantize.activation = ActivationOf(args);
  quantize.reorder_index = args.reorder_index;
  quantize.q = args.q;
  quantize.scale = args.scale;
  quantize.rows = rows;
  quantize.format = FormatOf(args);
  return cuda::LaunchQuantize(quantize, stream);
}

}  // namespace

Status RunRowsOnCuda(const std::string& where, const RowArgs& args, ElementType type, int64_t rows, void* stream) {
  LOWBIT_EXPECT(args.channels <= cuda::kMaxRowChannels, where, ": rows have ", args.channels,
                " channels, expected at most ", cuda::kMaxRowChannels, " on CUDA. Leave this node to the CPU.");
  return FromCuda(Launch(args, cuda::GraphType(type), rows, static_cast<cudaStream_t>(stream)), where, " (M=", rows,
                  ", K=", args.channels, ")");
}

Status CopyFromCuda(const std::string& where, const void* from, int64_t count, int32_t* to) {
  return FromCuda(cudaMemcpy(to, from, static_cast<size_t>(count) * sizeof(int32_t), cudaMemcpyDefault), where);
}

}  // namespace lowbit
