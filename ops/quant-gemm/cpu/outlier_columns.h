// LLM.int8() (Dettmers et al., arXiv 2208.07339) inside QuantGemm: columns of a where some row reaches the threshold
// are multiplied as floats, the others as s8 codes. ops/formats/README.md has the arithmetic.
#pragma once

#include "native/core/kernel_context.h"
#include "ops/quant-gemm/cpu/gemm.h"
#include "ops/rows/rows.h"

namespace lowbit::gemm {

/// Float rows in two parts. The memory belongs to the calling thread and is good until its next split.
struct ColumnSplit {
  const int8_t* q;     // [rows, K] codes, 0 in outlier columns
  const float* scale;  // [rows]
  int64_t columns;     // outlier columns
  const float* a;      // [rows, columns]: their activations
  const uint8_t* b;    // [n, columns]: their s8 weights
};

/// Splits the rows of args.a (floats of the graph type); `quantize` is a kernel that quantizes float32 rows as they
/// are.
Status SplitColumns(const Args& args, float threshold, int64_t rows, RowFunction quantize, const KernelContext& context,
                    ColumnSplit* split);

/// The product of the outlier columns, without the bias, plus args.residual: what the product of the codes then takes
/// for its residual.
Args OutlierProduct(const ColumnSplit& split, const Args& args);

}  // namespace lowbit::gemm
