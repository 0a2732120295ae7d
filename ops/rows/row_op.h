// What the four row operators share on ONNX Runtime's side: quantization attributes, kernel choice, outputs q and
// scale, threads. An operator adds its inputs and says which source its rows have.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "native/core/op_definition.h"
#include "ops/rows/rows.h"

namespace lowbit {

/// A name in front of kernel names and the row source it stands for, e.g. {"rms", RowSource::kRms}.
struct NamedSource {
  const char* prefix;
  RowSource source;
};

/// The kernels of one operator, fastest first: every instruction set x source x graph type. Codes are stored as int8
/// whatever their range, so names read `<source>_<graph type>_s8__<arch>`.
class RowKernelTable {
 public:
  struct Entry {
    KernelRow row;
    RowSource source;
    ElementType type;
    RowFunction run;
  };

  explicit RowKernelTable(std::initializer_list<NamedSource> sources);

  const std::vector<Entry>& entries() const { return entries_; }
  std::vector<KernelRow> Rows() const;

 private:
  std::vector<Entry> entries_;
  std::deque<std::string> names_;  // a deque never moves what it holds
};

/// The attributes that say how rows are cut and quantized.
class RowFormat {
 public:
  /// Reads attributes whose names begin with `prefix` and checks what can be checked without knowing K.
  Status Read(const KernelInfo& info, const std::string& where, const std::string& prefix);
  /// Checks the cut of rows of `channels` channels.
  Status CheckChannels(const std::string& where, int64_t channels) const;
  /// Scales of a row.
  int64_t Segments(int64_t channels) const;
  /// Fills the part of `args` that follows from the format and K.
  void Fill(int64_t channels, RowArgs* args) const;

 private:
  CodeRange codes_{};
  int64_t group_ = 0;
  int64_t outliers_ = 0;
};

/// Specs of the attributes that RowFormat reads; operators list them first.
inline constexpr AttributeSpec kFormatAttribute{"format", "string", nullptr};
inline constexpr AttributeSpec kGroupAttribute{"group_size", "int", "0"};
inline constexpr AttributeSpec kOutlierAttribute{"outlier_channels", "int", "0"};
inline constexpr AttributeSpec kClipAttribute{"clip", "float", "1"};
inline constexpr AttributeSpec kActivationAttribute{"activation", "string", nullptr};

/// float32 and float16 graphs.
inline constexpr Overload kRowOverloads[] = {{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
                                             {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
                                             {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}};

/// The base of the operators' kernels.
class RowOp : public Kernel {
 protected:
  RowOp(const char* type, const RowKernelTable& table) : type_(type), table_(&table) {}

  /// Where the node is and what type its graph has; Prepare begins with it. Operators that may quantize nothing call
  /// only this.
  void Begin(const KernelInfo& info, const Overload& types);

  /// Reads the shared attributes (their names begin with `prefix`) and, at `reorder_input`, a constant reorder_index,
  /// which is checked here once.
  Status Prepare(const KernelInfo& info, const Overload& types, size_t reorder_input, const std::string& prefix = "");

  /// Reads the `activation` attribute.
  Status ReadActivation(const KernelInfo& info, Activation* activation) const;

  /// Runs over all rows: `lead` gives the leading dimensions, `args` everything but format, q and scale.
  /// q is output `first_output`, scale the next one.
  Status Run(KernelContext& context, const TensorView& lead, int64_t channels, RowArgs args, size_t first_output = 0);

  /// "<op> <node>", the beginning of messages.
  const std::string& where() const { return where_; }
  /// Whether tensors are on a CUDA device.
  bool on_cuda() const { return on_cuda_; }

  /// No input of that kind.
  static constexpr size_t kNone = SIZE_MAX;

 private:
  Status CheckReorder(const TensorView& reorder, int64_t channels) const;
  Status Reorder(KernelContext& context, int64_t channels, const int32_t** index) const;

  const char* type_;
  const RowKernelTable* table_;
  std::string where_;
  ElementType graph_type_ = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  RowFormat format_;
  size_t reorder_input_ = kNone;
  bool on_cuda_ = false;
  bool reorder_constant_ = false;
  TensorView reorder_;
  KernelChoice choice_;
};

/// Sets the shapes of q [..., channels] and scale [..., S]; `dims` are q's. `first_output` and `prefix` as in RowOp.
Status InferQuantized(ShapeInference& shapes, const Dims& dims, size_t first_output = 0,
                      const std::string& prefix = "");

/// Shape inference of operators whose q has the shape of their first input.
Status InferLikeInput(ShapeInference& shapes);

}  // namespace lowbit
