// Products in which a side has minifloat codes: both sides are decoded, exactly, and multiplied with float sums.
// Included by one file per instruction set, inside its unnamed namespace, after it has defined a struct `Isa` (vectors
// of kLanes 32-bit lanes, kRows rows of accumulators) and LOWBIT_TILE, the end of its kernels' names.
//
// A 32-bit lane holds a unit of Isa::kCodes decoded codes: one as a float, or two neighbours as bfloat16.
//
//   packed activations   unit [panel][unit of row][row of panel]
//   weight tile          unit [unit of piece][column], in L1, used by every panel of the block
//   sums                 float [row][column] of the tile

constexpr int64_t kCols = 2 * Isa::kLanes;
constexpr int64_t kPiece = 64;  // codes; starts at multiples of 16 inside a weight row

#include "ops/quant-gemm/cpu/finish.inl"
#include "ops/quant-gemm/cpu/scales.inl"

/// Units of so many codes. Segments of odd length are alone in a row.
constexpr int64_t Units(int64_t codes) { return (codes + Isa::kCodes - 1) / Isa::kCodes; }
inline int64_t RowUnits(const Args& args) { return Units(args.body) + Units(args.outliers); }

/// Where things are in a task's scratch.
struct Scratch {
  float* tile;      // [Units(kPiece)][kCols]
  uint32_t* words;  // [kPiece / 4][kCols]: four bytes of every column
  float* scales;    // [segment][kCols], the outlier scale last
  float* sums;      // [row][kCols]
  int64_t bytes;
  Scratch(void* memory, const Args& args, int64_t rows) {
    char* at = static_cast<char*>(memory);
    tile = reinterpret_cast<float*>(at);
    at += Units(kPiece) * kCols * 4;
    words = reinterpret_cast<uint32_t*>(at);
    at += kPiece / 4 * kCols * 4;
    scales = reinterpret_cast<float*>(at);
    at += (args.segments + 1) * kCols * 4;
    sums = reinterpret_cast<float*>(at);
    at += rows * kCols * 4;
    bytes = at - static_cast<char*>(memory);
  }
};

inline float LoadOne(const void* data, int64_t index, bool half) {
  return half ? Isa::HalfToFloat(static_cast<const uint16_t*>(data)[index]) : static_cast<const float*>(data)[index];
}

template <Codes kA>
void PackPanels(const Args& args, const Block& block, int64_t begin, int64_t end, void* packed) {
  const int64_t channels = args.body + args.outliers;
  const Panels panels(block.rows, Isa::kRows);
  for (int64_t p = begin; p < end; ++p) {
    const int64_t first = panels.Begin(p), rows = panels.Size(p);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = (block.row + first + r) * channels;
      const int8_t* codes = static_cast<const int8_t*>(args.a) + row;
      float* out = static_cast<float*>(packed) + first * RowUnits(args) + r;
      const auto pack = [&](int64_t count, const auto& value) LOWBIT_INLINE {
        for (int64_t k = 0; k < count; k += Isa::kCodes, out += rows) {
          *out = Isa::Join(value(k), k + 1 < count ? value(k + 1) : 0.0f);
        }
      };
      if constexpr (kA == Codes::kFloat) {
        pack(args.body, [&](int64_t k) LOWBIT_INLINE { return LoadOne(args.a, row + k, args.half_a); });
      } else {
        pack(args.body, [&](int64_t k) LOWBIT_INLINE { return args.a_values[static_cast<uint8_t>(codes[k])]; });
        pack(args.outliers, [&](int64_t k) LOWBIT_INLINE { return static_cast<float>(codes[args.body + k]); });
      }
    }
  }
}

template <Codes kB>
inline constexpr CodeValues<16> kNibbleValues = kB == Codes::kE2M1     ? MinifloatValues<16>(kE2M1)
                                                : kB == Codes::kE3M0   ? MinifloatValues<16>(kE3M0)
                                                : kB == Codes::kBnbFp4 ? BnbFp4Values()
                                                                       : IntegerValues<16>();

/// The values of the lowest codes of words.
template <Codes kB>
typename Isa::F Decode(typename Isa::I word) {
  if constexpr (IsNibble(kB)) return Isa::Lookup(kNibbleValues<kB>, word);
  return kB == Codes::kE4M3 ? Isa::FromE4M3(word) : Isa::FromS8(word);
}

/// Decodes `codes` codes of `columns` weight rows; absent columns give zeros' values, which nothing reads.
template <Codes kB>
void FillTile(const Scratch& scratch, const uint8_t* b, int64_t b_row, int64_t columns, int64_t codes) {
  constexpr int64_t kPerWord = IsNibble(kB) ? 8 : 4, kWords = Isa::kLanes;
  const int64_t bytes = IsNibble(kB) ? (codes + 1) / 2 : codes;
  for (int64_t half = 0; half < kCols; half += Isa::kLanes) {
    for (int64_t at = 0; at < bytes; at += 4 * kWords) {
      typename Isa::I rows[kWords];
      Unroll<kWords>([&](auto i) LOWBIT_INLINE {
        const int64_t column = half + i.value;
        const uint8_t* from = b + (column < columns ? column : 0) * b_row + at;
        Isa::Prefetch(from + kCols * b_row);  // meanwhile the next tile's are fetched
        rows[i.value] = Isa::LoadBytes(from, bytes - at);
      });
      Isa::Transpose(rows);
      uint32_t* words = scratch.words + at / 4 * kCols + half;
      Unroll<kWords>([&](auto i) LOWBIT_INLINE {
        if (i.value * 4 < bytes - at) Isa::StoreI(words + i.value * kCols, rows[i.value]);
      });
    }
  }
  for (int64_t half = 0; half < kCols; half += Isa::kLanes) {
    const uint32_t* words = scratch.words + half;
    float* tile = scratch.tile + half;
    for (int64_t k = 0; k < codes; k += kPerWord, words += kCols) {
      typename Isa::I word = Isa::LoadI(words);
      const int64_t count = Min(kPerWord, codes - k);
      for (int64_t j = 0; j < count; j += Isa::kCodes, tile += kCols) {
        const typename Isa::F value = Decode<kB>(word);
        word = Isa::template ShiftRight<32 / kPerWord>(word);
        if constexpr (Isa::kCodes == 2) {
          Isa::StoreF(tile, Isa::Join(value, Decode<kB>(word)));
          word = Isa::template ShiftRight<32 / kPerWord>(word);
        } else {
          Isa::StoreF(tile, value);
        }
      }
    }
  }
}

/// sums += (panel · tile) · weight scale · activation scale, for one piece of `units`. `a_scale` may be nullptr
/// (floats).
template <int kR>
void ComputePiece(const float* panel, const float* tile, int64_t units, const float* scale, const float* a_scale,
                  int64_t a_scale_row, float* sums) {
  using F = typename Isa::F;
  F acc[kR][2];
  Unroll<kR>([&](auto r) LOWBIT_INLINE { acc[r.value][0] = acc[r.value][1] = Isa::SetF(0); });
  for (int64_t k = 0; k < units; ++k, tile += kCols, panel += kR) {
    const F b0 = Isa::LoadF(tile), b1 = Isa::LoadF(tile + Isa::kLanes);
    Unroll<kR>([&](auto r) LOWBIT_INLINE {
      const F a = Isa::SetF(panel[r.value]);
      acc[r.value][0] = Isa::MulAddUnits(a, b0, acc[r.value][0]);
      acc[r.value][1] = Isa::MulAddUnits(a, b1, acc[r.value][1]);
    });
  }
  const F scale0 = Isa::LoadF(scale), scale1 = Isa::LoadF(scale + Isa::kLanes);
  Unroll<kR>([&](auto r) LOWBIT_INLINE {
    const F of_row = Isa::SetF(a_scale == nullptr ? 1.0f : a_scale[r.value * a_scale_row]);
    float* out = sums + r.value * kCols;
    Isa::StoreF(out, Isa::MulAdd(Isa::Mul(acc[r.value][0], scale0), of_row, Isa::LoadF(out)));
    Isa::StoreF(out + Isa::kLanes,
                Isa::MulAdd(Isa::Mul(acc[r.value][1], scale1), of_row, Isa::LoadF(out + Isa::kLanes)));
  });
}

/// One segment of `codes` codes, in pieces; the `last` one finishes y. `unit` is its first in a packed row, `b` its
/// first byte of the first column.
template <Codes kB>
void ComputeSegment(const Args& args, const Block& block, const Scratch& scratch, const uint8_t* b, int64_t b_row,
                    int64_t unit, int64_t codes, const float* scale, int64_t a_scale_index, const float* packed,
                    bool last) {
  const int64_t columns = Min(kCols, args.n - block.n_begin), row_units = RowUnits(args);
  const Panels panels(block.rows, Isa::kRows);
  for (int64_t k = 0; k < codes; k += kPiece) {
    const int64_t count = Min(kPiece, codes - k);
    FillTile<kB>(scratch, b + (IsNibble(kB) ? k / 2 : k), b_row, columns, count);
    for (int64_t p = 0; p < panels.count; ++p) {
      const int64_t first = panels.Begin(p), rows = panels.Size(p);
      const float* panel = packed + first * row_units + (unit + k / Isa::kCodes) * rows;
      const float* a_scale =
          args.a_scale == nullptr ? nullptr : args.a_scale + (block.row + first) * args.a_scale_row + a_scale_index;
      const Block part{block.row + first, rows, block.n_begin, block.n_end};
      const bool finish = last && k + count == codes;
      if (finish) FetchOutput<kCols>(args, part);
      WithRows<Isa::kRows>(rows, [&]<int kR>(Rows<kR>) {
        ComputePiece<kR>(panel, scratch.tile, Units(count), scale, a_scale, args.a_scale_row,
                         scratch.sums + first * kCols);
      });
      if (finish) Finish<kCols>(args, part, scratch.sums + first * kCols);
    }
  }
}

template <Codes kB>
void RunTiles(const Args& args, const Block& all, const void* packed, void* memory) {
  const Scratch scratch(memory, args, all.rows);
  const float* floats = static_cast<const float*>(packed);
  for (int64_t n = all.n_begin; n < all.n_end; n += kCols) {
    const Block block{all.row, all.rows, n, Min(n + kCols, all.n_end)};
    const int64_t columns = Min(kCols, args.n - n);
    FillScales(scratch.scales, args.b_scale + n * args.b_scale_row, args.b_scale_row, args.b_scale_row, columns);
    for (int64_t i = 0; i < block.rows * kCols; i += Isa::kLanes) Isa::StoreF(scratch.sums + i, Isa::SetF(0));
    for (int64_t s = 0; s < args.segments; ++s) {
      const int64_t channel = s * args.segment;
      ComputeSegment<kB>(args, block, scratch, args.b + n * args.b_row + (IsNibble(kB) ? channel / 2 : channel),
                         args.b_row, channel / Isa::kCodes, args.segment,
                         scratch.scales + s * args.b_scale_step * kCols, s * args.a_scale_step, floats,
                         args.outliers == 0 && s + 1 == args.segments);
    }
    if (args.outliers > 0) {
      float* scale = scratch.scales + args.segments * kCols;
      FillScales(scale, args.b_outlier_scale + n, 1, 1, columns);
      const uint8_t* b = reinterpret_cast<const uint8_t*>(args.b_outlier) + n * args.b_outlier_row;
      ComputeSegment<Codes::kS8>(args, block, scratch, b, args.b_outlier_row, Units(args.body), args.outliers, scale,
                                 args.a_scale_row - 1, floats, true);
    }
  }
}

inline int64_t PackedBytes(const Args& args, int64_t rows) { return rows * RowUnits(args) * 4; }
inline int64_t ScratchBytes(const Args& args, int64_t rows) { return Scratch(nullptr, args, rows).bytes; }
inline bool Any(const Shape&) { return true; }

template <Codes kA, Codes kB>
constexpr GemmKernel Make(const char* name) {
  return {name,  Isa::kNeeds, kA,          kB,           43 * Isa::kRows, Isa::kRows,
          kCols, Any,         PackedBytes, ScratchBytes, PackPanels<kA>,  RunTiles<kB>};
}

constexpr GemmKernel kTable[] = {
    Make<Codes::kTable, Codes::kE2M1>("x8e2m1_f32_" LOWBIT_TILE),
    Make<Codes::kTable, Codes::kE3M0>("x8e3m0_f32_" LOWBIT_TILE),
    Make<Codes::kTable, Codes::kBnbFp4>("x8bnb4_f32_" LOWBIT_TILE),
    Make<Codes::kTable, Codes::kE4M3>("x8e4m3_f32_" LOWBIT_TILE),
    Make<Codes::kTable, Codes::kS4>("x8s4_f32_" LOWBIT_TILE),
    Make<Codes::kTable, Codes::kS8>("x8s8_f32_" LOWBIT_TILE),
    Make<Codes::kFloat, Codes::kE2M1>("f32e2m1_f32_" LOWBIT_TILE),
    Make<Codes::kFloat, Codes::kE3M0>("f32e3m0_f32_" LOWBIT_TILE),
    Make<Codes::kFloat, Codes::kBnbFp4>("f32bnb4_f32_" LOWBIT_TILE),
    Make<Codes::kFloat, Codes::kE4M3>("f32e4m3_f32_" LOWBIT_TILE),
};

/// Units of two codes hold codes only.
constexpr Table IsaKernels() { return {kTable, Isa::kCodes == 2 ? 6 : sizeof kTable / sizeof kTable[0]}; }
