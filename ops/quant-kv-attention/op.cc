#include "ops/quant-kv-attention/op.h"

#include <algorithm>
#include <string>
#include <vector>

#include "ops/quant-kv-attention/attributes.h"
#include "ops/quant-kv-attention/cpu/run.h"
#include "ops/quantize/op.h"
#if LOWBIT_CUDA
#include "native/core/cuda_memory.h"
#include "ops/quant-kv-attention/cuda/run.h"
#endif

namespace lowbit {
namespace {

// Input and output positions.
enum : size_t { kQ, kK, kV, kPastK, kPastKParam, kPastV, kPastVParam, kLengths, kCos, kSin, kMask, kReorder, kInputs };
enum : size_t { kY, kPresentK, kPresentKParam, kPresentV, kPresentVParam, kCodes, kScale };

constexpr Port kInputPorts[] = {{"q", PortType::kT},
                                {"k", PortType::kT, true},
                                {"v", PortType::kT, true},
                                {"past_k", PortType::kUint8},
                                {"past_k_param", PortType::kFloat16},
                                {"past_v", PortType::kUint8},
                                {"past_v_param", PortType::kFloat16},
                                {"lengths", PortType::kInt32, true},
                                {"cos", PortType::kT, true},
                                {"sin", PortType::kT, true},
                                {"mask", PortType::kT, true},
                                {"reorder_index", PortType::kInt32, true}};
constexpr Port kOutputPorts[] = {{"y", PortType::kT, true},
                                 {"present_k", PortType::kUint8},
                                 {"present_k_param", PortType::kFloat16},
                                 {"present_v", PortType::kUint8},
                                 {"present_v_param", PortType::kFloat16},
                                 {"q", PortType::kInt8, true},
                                 {"scale", PortType::kFloat32, true}};
constexpr AttributeSpec kAttributes[] = {
    {"num_heads", "int", nullptr},  {"kv_num_heads", "int", nullptr},
    {"head_dim", "int", nullptr},   {"bits", "int", "4"},
    {"clip", "float", "1"},         {"scale", "float", "0"},
    {"softcap", "float", "0"},      {"causal", "int", "1"},
    {"window", "int", "0"},         {"rotary", "string", "none"},
    {"kv_rope", "string", "pre"},   {"in_place", "int", "0"},
    {"q_format", "string", "none"}, {"q_group_size", "int", "0"},
    {"q_clip", "float", "1"},       {"q_outlier_channels", "int", "0"},
};
constexpr ElementType kF16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
constexpr Overload kOverloads[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}, {kF16}, {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}};

const kv::Kernel& KernelAt(size_t index) {
  size_t count = 0;
  return *kv::AllKernels(&count)[index];
}

std::vector<KernelRow> KernelRows() {
  size_t count = 0;
  const kv::Kernel* const* kernels = kv::AllKernels(&count);
  std::vector<KernelRow> rows;
  for (size_t i = 0; i < count; ++i) rows.push_back({kernels[i]->name, kernels[i]->needs});
  return rows;
}

class QuantKvAttention : public RowOp {
 public:
  QuantKvAttention() : RowOp("QuantKvAttention", QuantizeKernels()) {}

  static Status Create(const KernelInfo& info, const Overload& types, std::unique_ptr<Kernel>* kernel) {
    auto made = std::make_unique<QuantKvAttention>();
    made->Begin(info, types);
    made->type_ = types.t;
    LOWBIT_TRY(ReadQuantKvAttentionAttributes(info, made->where(), &made->attributes_));
    if (made->attributes_.quantize) LOWBIT_TRY(made->Prepare(info, types, kReorder, "q_"));
    *kernel = std::move(made);
    return Status::Ok();
  }

  Status Compute(KernelContext& context) override {
    TensorView in[kInputs];
    for (size_t i = 0; i < kInputs; ++i) LOWBIT_TRY(context.Input(i, &in[i]));
    kv::Args args = Attributes();
    LOWBIT_TRY(ReadFresh(in, &args));
    const int64_t batch = in[kQ].dims[0];
    LOWBIT_TRY(ReadPast(in, kPastK, batch, &args.past_k));
    LOWBIT_TRY(ReadPast(in, kPastV, batch, &args.past_v));
    LOWBIT_EXPECT(args.past_k.rows == args.past_v.rows, where(), ": inputs past_k ", in[kPastK].ShapeText(),
                  " and past_v ", in[kPastV].ShapeText(), " hold different numbers of tokens, expected equal ones.");
    std::vector<int64_t> lengths;
    LOWBIT_TRY(ReadLengths(in[kLengths], batch, args, &lengths));
    args.lengths = lengths.data();
    const int64_t longest = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
    LOWBIT_TRY(ReadRotation(in, longest, &args));
    LOWBIT_TRY(ReadMask(in[kMask], batch, longest, &args));
    Temporary y;
    LOWBIT_TRY(MakeOutputs(context, batch, &args, &y));
    if (batch > 0) LOWBIT_TRY(Attend(context, in, args, batch));
    return attributes_.quantize ? QuantizeOutput(context, in[kQ], args) : Status::Ok();
  }

 private:
  Status Attend(KernelContext& context, [[maybe_unused]] const TensorView (&in)[kInputs], const kv::Args& args,
                int64_t batch) {
#if LOWBIT_CUDA
    if (on_cuda()) {
      int64_t limit = args.present_k.rows;
      if (args.cos != nullptr) limit = std::min(limit, in[kCos].dims[0]);
      if (args.mask != nullptr) limit = std::min(limit, in[kMask].dims[3]);
      void* stream = nullptr;
      LOWBIT_TRY(context.CudaStream(&stream));
      const int32_t* lengths = in[kLengths].present ? in[kLengths].As<int32_t>() : nullptr;
      return RunAttentionOnCuda(where(), context, args, type_, batch, lengths, limit, stream);
    }
#endif
    return kv::RunAttention(Choose(), args, batch, context);
  }

  kv::Args Attributes() const {
    const QuantKvAttentionAttributes& at = attributes_;
    kv::Args args{};
    args.heads = at.heads;
    args.kv_heads = at.kv_heads;
    args.head_dim = at.head_dim;
    args.bits = at.bits;
    args.row_bytes = at.row_bytes();
    args.clip = at.clip;
    args.scale = at.scale;
    args.softcap = at.softcap;
    args.causal = at.causal;
    args.half = half();
    args.window = at.window;
    args.rotary = at.rotary;
    args.rotate_on_read = at.rotary != kv::Rotary::kNone && !at.rope_before_store;
    return args;
  }

  bool half() const { return type_ == kF16; }

  /// Bytes of an element of the graph type.
  int64_t element() const { return type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : 2; }

  /// Element `index` of a tensor of the graph type.
  const void* At(const void* data, int64_t index) const { return static_cast<const char*>(data) + index * element(); }

  Status ReadFresh(const TensorView (&in)[kInputs], kv::Args* args) const {
    const TensorView &q = in[kQ], &k = in[kK], &v = in[kV];
    const int64_t q_width = args->heads * args->head_dim, kv_width = args->kv_heads * args->head_dim;
    LOWBIT_EXPECT(k.present == v.present, where(), ": input ", k.present ? "v" : "k",
                  " is missing, expected both k and v, or neither with all three packed in q.");
    const int64_t width = k.present ? q_width : q_width + 2 * kv_width;
    LOWBIT_EXPECT(q.rank == 3 && q.dims[2] == width, where(), ": input q has shape ", q.ShapeText(), ", expected [B,S,",
                  width, "] (", args->heads, " heads and ", args->kv_heads, " kv heads of ", args->head_dim, ").");
    args->tokens = q.dims[1];
    args->q = q.data;
    args->q_stride = width;
    if (!k.present) {
      args->k = At(q.data, q_width);
      args->v = At(q.data, q_width + kv_width);
      args->kv_stride = width;
      return Status::Ok();
    }
    for (const TensorView* each : {&k, &v}) {
      LOWBIT_EXPECT(
          each->rank == 3 && each->dims[0] == q.dims[0] && each->dims[1] == q.dims[1] && each->dims[2] == kv_width,
          where(), ": input ", each == &k ? "k" : "v", " has shape ", each->ShapeText(), ", expected [", q.dims[0], ",",
          q.dims[1], ",", kv_width, "], for q ", q.ShapeText(), ".");
    }
    args->k = k.data;
    args->v = v.data;
    args->kv_stride = kv_width;
    return Status::Ok();
  }

  Status ReadPast(const TensorView (&in)[kInputs], size_t index, int64_t batch, kv::Cache* cache) const {
    const TensorView &codes = in[index], &params = in[index + 1];
    const auto fits = [&](const TensorView& view, int64_t width) {
      return view.rank == 4 && view.dims[0] == batch && view.dims[1] == attributes_.kv_heads && view.dims[3] == width;
    };
    const char *name = kInputPorts[index].name, *param_name = kInputPorts[index + 1].name;
    LOWBIT_EXPECT(fits(codes, attributes_.row_bytes()), where(), ": input ", name, " has shape ", codes.ShapeText(),
                  ", expected [", batch, ",", attributes_.kv_heads, ",T,", attributes_.row_bytes(), "] (head_dim ",
                  attributes_.head_dim, " in ", attributes_.bits, " bits).");
    LOWBIT_EXPECT(fits(params, 2) && params.dims[2] == codes.dims[2], where(), ": input ", param_name, " has shape ",
                  params.ShapeText(), ", expected [", batch, ",", attributes_.kv_heads, ",", codes.dims[2],
                  ",2], a scale and a min for each row of ", name, ".");
    *cache = {static_cast<uint8_t*>(codes.data), static_cast<uint16_t*>(params.data), codes.dims[2]};
    return Status::Ok();
  }

  Status ReadLengths(const TensorView& given, int64_t batch, const kv::Args& args,
                     std::vector<int64_t>* lengths) const {
    const bool in_place = attributes_.in_place;
    const int64_t room = in_place ? args.past_k.rows : args.past_k.rows + args.tokens;
    lengths->assign(static_cast<size_t>(batch), room);
    if (!given.present) {
      LOWBIT_EXPECT(!in_place || batch == 0, where(), ": input lengths is missing, expected [", batch,
                    "]: a cache in place does not say how much of it is used.");
      return Status::Ok();
    }
    LOWBIT_EXPECT(given.rank == 1 && given.dims[0] == batch, where(), ": input lengths has shape ", given.ShapeText(),
                  ", expected [", batch, "].");
    if (on_cuda()) {  // the values stay on the device, whose kernels check them
      lengths->assign(static_cast<size_t>(batch), 0);
      return Status::Ok();
    }
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t length = given.As<int32_t>()[b];
      LOWBIT_EXPECT(
          length >= 0, where(), ": lengths[", b, "] is ", length,
          ", expected 0 or more. A rewritten model says so of a row of attention_mask that begins with a zero: "
          "pad prompts on the right.");
      LOWBIT_EXPECT(length <= room, where(), ": lengths[", b, "] is ", length, ", expected 0 … ", room,
                    in_place ? ", the capacity of the cache." : ", the tokens of the past and the new ones.");
      (*lengths)[static_cast<size_t>(b)] = length;
    }
    return Status::Ok();
  }

  Status ReadRotation(const TensorView (&in)[kInputs], int64_t longest, kv::Args* args) const {
    if (attributes_.rotary == kv::Rotary::kNone) return Status::Ok();
    const TensorView &cos = in[kCos], &sin = in[kSin];
    LOWBIT_EXPECT(cos.present && sin.present, where(), ": input ", cos.present ? "sin" : "cos",
                  " is missing, expected a table for rotary attention.");
    LOWBIT_EXPECT(cos.rank == 2 && 2 * cos.dims[1] <= attributes_.head_dim && sin.rank == 2 &&
                      sin.dims[0] == cos.dims[0] && sin.dims[1] == cos.dims[1],
                  where(), ": inputs cos and sin have shapes ", cos.ShapeText(), " and ", sin.ShapeText(),
                  ", expected equal ones of rank 2 with at most ", attributes_.head_dim / 2, " columns.");
    LOWBIT_EXPECT(longest <= cos.dims[0], where(), ": a sequence has ", longest, " tokens, expected at most ",
                  cos.dims[0], ", the positions of the cos table.");
    args->cos = cos.data;
    args->sin = sin.data;
    args->pairs = cos.dims[1];
    return Status::Ok();
  }

  Status ReadMask(const TensorView& mask, int64_t batch, int64_t longest, kv::Args* args) const {
    if (!mask.present) return Status::Ok();
    const auto broadcast = [&](size_t axis, int64_t size) { return mask.dims[axis] == size || mask.dims[axis] == 1; };
    LOWBIT_EXPECT(mask.rank == 4 && broadcast(0, batch) && broadcast(1, args->heads) && broadcast(2, args->tokens) &&
                      mask.dims[3] >= longest,
                  where(), ": input mask has shape ", mask.ShapeText(), ", expected [", batch, " or 1,", args->heads,
                  " or 1,", args->tokens, " or 1, ", longest, " or more].");
    const int64_t row = mask.dims[3], head = row * mask.dims[2], sequence = head * mask.dims[1];
    args->mask = mask.data;
    args->mask_row_stride = mask.dims[2] == 1 ? 0 : row;
    args->mask_head_stride = mask.dims[1] == 1 ? 0 : head;
    args->mask_batch_stride = mask.dims[0] == 1 ? 0 : sequence;
    return Status::Ok();
  }

  /// `own` holds y when nobody asked for it and only its codes go out.
  Status MakeOutputs(const KernelContext& context, int64_t batch, kv::Args* args, Temporary* own) const {
    const int64_t y[] = {batch, args->tokens, args->heads * args->head_dim};
    LOWBIT_TRY(context.Output(kY, y, 3, &args->y));
    if (const int64_t count = y[0] * y[1] * y[2]; args->y == nullptr && count > 0) {
      LOWBIT_EXPECT(attributes_.quantize, where(), ": output y is skipped, expected it with q_format 'none'.");
      const size_t bytes = static_cast<size_t>(count) * element();
#if LOWBIT_CUDA
      LOWBIT_TRY(on_cuda() ? AllocateOnCuda(where(), context, bytes, own) : context.Allocate(bytes, own));
#else
      LOWBIT_TRY(context.Allocate(bytes, own));
#endif
      args->y = own->data();
    }
    const int64_t rows = attributes_.in_place ? args->past_k.rows : args->past_k.rows + args->tokens;
    for (auto& [index, cache] : {std::pair(size_t{kPresentK}, &args->present_k), {kPresentV, &args->present_v}}) {
      const int64_t codes[] = {batch, args->kv_heads, rows, args->row_bytes};
      const int64_t params[] = {batch, args->kv_heads, rows, 2};
      void *code_data = nullptr, *param_data = nullptr;
      LOWBIT_TRY(context.Output(index, codes, 4, &code_data));
      LOWBIT_TRY(context.Output(index + 1, params, 4, &param_data));
      *cache = {static_cast<uint8_t*>(code_data), static_cast<uint16_t*>(param_data), rows};
    }
    return Status::Ok();
  }

  /// Gathers and quantizes the rows of y, as Quantize would behind this node.
  Status QuantizeOutput(KernelContext& context, const TensorView& q, const kv::Args& args) {
    const int64_t channels = args.heads * args.head_dim;
    RowArgs rows{};
    rows.source = RowSource::kCopy;
    rows.x = args.y;
    rows.x_stride = channels;
    return Run(context, q, channels, rows, kCodes);
  }

  const kv::Kernel& Choose() {
    const auto accepts = [&](size_t i) {
      const kv::Kernel& kernel = KernelAt(i);
      return kernel.half == half() && kernel.bits == attributes_.bits;
    };
    return KernelAt(choice_.Get("QuantKvAttention", KernelRows, accepts));
  }

  ElementType type_ = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  QuantKvAttentionAttributes attributes_;
  KernelChoice choice_;
};

Status InferShapes(ShapeInference& shapes) {
  Dims q;
  if (!shapes.Input(kQ, &q) || q.size() != 3) return Status::Ok();
  const Dim tokens = q[1];
  q[2] = Dim{shapes.Int("num_heads", -1) * shapes.Int("head_dim", -1), ""};
  // Each fails when the node has no such output; then there is nothing to infer.
  (void)shapes.SetOutput(kY, q, shapes.Type(kQ)).ok();
  (void)InferQuantized(shapes, q, kCodes, "q_").ok();
  for (const size_t cache : {kPastK, kPastKParam, kPastV, kPastVParam}) {
    Dims dims;
    if (!shapes.Input(cache, &dims) || dims.size() != 4) continue;
    if (shapes.Int("in_place", 0) == 0) {
      const bool known = dims[2].value >= 0 && tokens.value >= 0;
      dims[2] = known ? Dim{dims[2].value + tokens.value, ""} : Dim{};
    }
    LOWBIT_TRY(shapes.SetOutput(cache - kPastK + kPresentK, dims, shapes.Type(cache)));
  }
  return Status::Ok();
}

}  // namespace

const OpDefinition& QuantKvAttentionDefinition() {
  static const OpDefinition definition{
      "QuantKvAttention",       1,           kInputPorts, kOutputPorts, kAttributes, kOverloads,
      QuantKvAttention::Create, InferShapes, KernelRows};
  return definition;
}

}  // namespace lowbit
