#include "ops/rows/row_op.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "native/core/scratch.h"
#include "ops/formats/minifloat.h"
#if LOWBIT_CUDA
#include "ops/rows/cuda/run.h"
#endif

namespace lowbit {
namespace {

constexpr ElementType kF32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ElementType kF16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
/// Channels a task handles at least: some microseconds, well above what handing it to a thread costs.
constexpr int64_t kChannelsPerTask = 8192;

thread_local Scratch scratch_of_thread;

Status CheckFormat(const std::string& format, const std::string& where) {
  const bool known = format == "s4" || format == "s8" || format == "e4m3" || format == "e5m2" || format == "s4_e4m3";
  LOWBIT_EXPECT(known, where, ": format is '", format, "', expected one of s4, s8, e4m3, e5m2, s4_e4m3.");
  return Status::Ok();
}

CodeRange MinifloatRange(const Minifloat& format, float clip) {
  // The code of the smallest normal value is 1 << mantissa, its binary32 exponent 128 - bias.
  const auto offset = static_cast<uint32_t>(127 - format.bias) << format.mantissa;
  const int unit =
      1 - format.bias - format.mantissa + 23;  // the power of two whose last place is the smallest subnormal
  return {-format.max, format.max, clip / format.max, format.mantissa, offset, std::ldexp(1.f, unit)};
}

CodeRange CodesOf(const std::string& format, float clip) {
  if (format == "e4m3") return MinifloatRange(kE4M3, clip);
  if (format == "e5m2") return MinifloatRange(kE5M2, clip);
  if (format == "s4" || format == "s4_e4m3") {
    CodeRange codes{-8.f, 7.f, clip / 7.f};
    codes.sign_magnitude = format == "s4_e4m3";
    return codes;
  }
  return {-128.f, 127.f, clip / 127.f};
}

}  // namespace

RowKernelTable::RowKernelTable(std::initializer_list<NamedSource> sources) {
  struct Arch {
    const char* name;
    uint32_t needs;
    RowFunctions functions;
  };
  const std::vector<Arch> archs = {
#if defined(__x86_64__)
    {"avx512", kCpuAvx512, RowFunctionsAvx512()},
    {"avx2", kCpuAvx2, RowFunctionsAvx2()},
#endif
    {"scalar", kCpuAny, RowFunctionsScalar()},
  };
  for (const Arch& arch : archs) {
    for (const NamedSource& source : sources) {
      for (const ElementType type : {kF32, kF16}) {
        const bool f32 = type == kF32;
        names_.push_back(std::string(source.prefix) + (f32 ? "_f32" : "_f16") + "_s8__" + arch.name);
        const RowFunction run = f32 ? arch.functions.f32 : arch.functions.f16;
        entries_.push_back({{names_.back().c_str(), arch.needs}, source.source, type, run});
      }
    }
  }
}

std::vector<KernelRow> RowKernelTable::Rows() const {
  std::vector<KernelRow> rows;
  for (const Entry& entry : entries_) rows.push_back(entry.row);
  return rows;
}

Status RowFormat::Read(const KernelInfo& info, const std::string& where, const std::string& prefix) {
  const int64_t zero = 0;
  const float one = 1.f;
  std::string format;
  float clip = 1.f;
  LOWBIT_TRY(info.String((prefix + "format").c_str(), &format));
  LOWBIT_TRY(info.Int((prefix + "group_size").c_str(), &group_, &zero));
  LOWBIT_TRY(info.Int((prefix + "outlier_channels").c_str(), &outliers_, &zero));
  LOWBIT_TRY(info.Float((prefix + "clip").c_str(), &clip, &one));
  LOWBIT_TRY(CheckFormat(format, where));
  LOWBIT_EXPECT(group_ >= 0 && group_ % 16 == 0, where, ": group_size is ", group_,
                ", expected 0 or a multiple of 16.");
  LOWBIT_EXPECT(outliers_ >= 0, where, ": outlier_channels is ", outliers_, ", expected 0 … K - 1.");
  LOWBIT_EXPECT(clip >= 0.01f && clip <= 1.f, where, ": clip is ", clip, ", expected 0.01 … 1.");
  codes_ = CodesOf(format, clip);
  return Status::Ok();
}

Status RowFormat::CheckChannels(const std::string& where, int64_t channels) const {
  const int64_t body = channels - outliers_;
  LOWBIT_EXPECT(body >= 1, where, ": outlier_channels is ", outliers_, ", expected less than K (", channels, ").");
  LOWBIT_EXPECT(group_ == 0 || body % group_ == 0, where, ": group_size is ", group_,
                ", expected 0 or a divisor of K - outlier_channels (", body, ").");
  return Status::Ok();
}

int64_t RowFormat::Segments(int64_t channels) const {
  return (group_ == 0 ? 1 : (channels - outliers_) / group_) + (outliers_ > 0 ? 1 : 0);
}

void RowFormat::Fill(int64_t channels, RowArgs* args) const {
  args->channels = channels;
  args->body = channels - outliers_;
  args->group = group_ == 0 ? args->body : group_;
  args->segments = Segments(channels);
  args->body_codes = codes_;
}

void RowOp::Begin(const KernelInfo& info, const Overload& types) {
  where_ = info.Where(type_);
  on_cuda_ = info.on_cuda();
  graph_type_ = types.t;
}

Status RowOp::Prepare(const KernelInfo& info, const Overload& types, size_t reorder_input, const std::string& prefix) {
  Begin(info, types);
  reorder_input_ = reorder_input;
  LOWBIT_TRY(format_.Read(info, where_, prefix));
  if (reorder_input == kNone) return Status::Ok();
  LOWBIT_TRY(info.ConstantInput(reorder_input, &reorder_constant_, &reorder_));
  return reorder_constant_ ? CheckReorder(reorder_, reorder_.Count()) : Status::Ok();
}

Status RowOp::ReadActivation(const KernelInfo& info, Activation* activation) const {
  static constexpr struct {
    const char* name;
    Activation activation;
  } kNames[] = {{"silu", Activation::kSilu},
                {"gelu", Activation::kGelu},
                {"gelu_tanh", Activation::kGeluTanh},
                {"relu", Activation::kRelu}};
  std::string text;
  LOWBIT_TRY(info.String("activation", &text));
  for (const auto& entry : kNames) {
    if (text == entry.name) {
      *activation = entry.activation;
      return Status::Ok();
    }
  }
  return Status::Error(ORT_INVALID_ARGUMENT, where_, ": activation is '", text,
                       "', expected one of silu, gelu, gelu_tanh, relu.");
}

Status RowOp::CheckReorder(const TensorView& reorder, int64_t channels) const {
  LOWBIT_EXPECT(reorder.rank == 1 && reorder.Count() == channels, where_, ": input reorder_index has shape ",
                reorder.ShapeText(), ", expected [", channels, "].");
  const int32_t* index = reorder.As<int32_t>();
#if LOWBIT_CUDA
  std::vector<int32_t> copy;
  if (on_cuda_) {
    copy.resize(static_cast<size_t>(channels));
    LOWBIT_TRY(CopyFromCuda(where_, index, channels, copy.data()));
    index = copy.data();
  }
#endif
  uint32_t largest = 0;  // a negative index becomes the largest of all
  for (int64_t i = 0; i < channels; ++i) largest = std::max(largest, static_cast<uint32_t>(index[i]));
  if (channels == 0 || largest < static_cast<uint64_t>(channels)) return Status::Ok();
  const auto bad = std::find_if(index, index + channels, [&](int32_t k) { return k < 0 || k >= channels; });
  return Status::Error(ORT_INVALID_ARGUMENT, where_, ": reorder_index[", bad - index, "] is ", *bad, ", expected 0 … ",
                       channels - 1, ".");
}

Status RowOp::Reorder(KernelContext& context, int64_t channels, const int32_t** index) const {
  TensorView reorder = reorder_;
  if (reorder_constant_) {
    LOWBIT_EXPECT(reorder.Count() == channels, where_, ": input reorder_index has ", reorder.Count(),
                  " entries, expected one for each of the ", channels, " channels.");
  } else if (reorder_input_ != kNone) {
    LOWBIT_TRY(context.Input(reorder_input_, &reorder));
    LOWBIT_EXPECT(!on_cuda_ || !reorder.present, where_,
                  ": input reorder_index is computed, expected a constant on CUDA, where it cannot be checked.");
    if (reorder.present) LOWBIT_TRY(CheckReorder(reorder, channels));
  }
  *index = reorder.present ? reorder.As<int32_t>() : nullptr;
  return Status::Ok();
}

Status RowOp::Run(KernelContext& context, const TensorView& lead, int64_t channels, RowArgs args, size_t first_output) {
  LOWBIT_TRY(format_.CheckChannels(where_, channels));
  LOWBIT_TRY(Reorder(context, channels, &args.reorder_index));
  format_.Fill(channels, &args);
  TensorView q = lead, scale = lead;
  q.dims[q.rank - 1] = channels;
  scale.dims[scale.rank - 1] = args.segments;
  LOWBIT_TRY(context.Output(first_output, q.dims.data(), q.rank, &q.data));
  LOWBIT_TRY(context.Output(first_output + 1, scale.dims.data(), scale.rank, &scale.data));
  const int64_t rows = lead.Rows();
  if (rows == 0) return Status::Ok();
  LOWBIT_EXPECT(q.data != nullptr && scale.data != nullptr, where_, ": output ", q.data == nullptr ? "q" : "scale",
                " is skipped, expected both q and scale.");
  args.q = static_cast<int8_t*>(q.data);
  args.scale = static_cast<float*>(scale.data);

#if LOWBIT_CUDA
  if (on_cuda_) {
    void* stream = nullptr;
    LOWBIT_TRY(context.CudaStream(&stream));
    return RunRowsOnCuda(where_, args, graph_type_, rows, stream);
  }
#endif

  const auto& kernels = table_->entries();
  const auto accepts = [&](size_t i) { return kernels[i].type == graph_type_ && kernels[i].source == args.source; };
  const RowFunction run = kernels[choice_.Get(
                                      type_, [&] { return table_->Rows(); }, accepts)]
                              .run;

  const int64_t rows_per_task = std::max<int64_t>(1, kChannelsPerTask / channels);
  const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  std::atomic<bool> out_of_memory{false};
  LOWBIT_TRY(context.ParallelFor(static_cast<size_t>(tasks), [&](size_t task) {
    float* scratch = scratch_of_thread.Floats(RowScratchFloats(channels));
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    const int64_t begin = static_cast<int64_t>(task) * rows_per_task;
    run(args, begin, std::min(rows, begin + rows_per_task), scratch);
  }));
  if (out_of_memory) return Status::Error(ORT_FAIL, where_, ": no memory for a row of ", channels, " channels.");
  return Status::Ok();
}

Status InferQuantized(ShapeInference& shapes, const Dims& dims, size_t first_output, const std::string& prefix) {
  LOWBIT_TRY(shapes.SetOutput(first_output, dims, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8));
  Dims scale = dims;
  Dim& last = scale.back();
  const int64_t group = shapes.Int((prefix + "group_size").c_str(), 0),
                outliers = shapes.Int((prefix + "outlier_channels").c_str(), 0);
  const bool unknown = group > 0 && last.value < 0;
  last = unknown ? Dim{} : Dim{(group > 0 ? (last.value - outliers) / group : 1) + (outliers > 0 ? 1 : 0), ""};
  return shapes.SetOutput(first_output + 1, scale, kF32);
}

Status InferLikeInput(ShapeInference& shapes) {
  Dims dims;
  return shapes.Input(0, &dims) ? InferQuantized(shapes, dims) : Status::Ok();
}

}  // namespace lowbit
