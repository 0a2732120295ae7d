// The blocked product, once for every instruction set. Included by one file per set, inside its anonymous namespace,
// after it has defined a struct `Isa` (vectors of kLanes 32-bit lanes and a few verbs on them).
//
// Weights become unsigned by adding 8 (s4) or 128 (s8), so that u8 x s8 instructions apply; what this adds to a sum, 8
// or 128 times the sum of the activations, is subtracted by starting the accumulator there. Where activations are
// floats, weights become floats times their scale, which is exact.
//
//   weight tile   [quad][column][4 codes], or floats [channel][column]: one piece of K at a time, in L1, used by every
//                 panel of the block
//   sums          float [row][column] of the tile; int32 [row][column] for a segment that spans several pieces

#include "ops/quant-gemm/cpu/pack.inl"

constexpr int64_t kCols = 2 * kLanes;
constexpr int64_t kMaxRows = 516;         // whole panels of any kind; each block of rows unpacks the weights anew
constexpr int64_t kPieceQuads = 128;      // tile of one piece: 16 KiB for 16 lanes
constexpr int64_t kFloatPieceQuads = 64;  // 32 KiB

#include "ops/quant-gemm/cpu/scales.inl"

/// Where things are in a task's scratch.
struct Scratch {
  uint8_t* tile;
  float* scales;  // [segment][column], the outlier scale last
  float* sums;
  int32_t* carry;
  int64_t bytes;
  Scratch(void* memory, const Args& args, int64_t rows) {
    char* at = static_cast<char*>(memory);
    const auto take = [&](int64_t size) {
      char* here = at;
      at += AlignUp(size);
      return here;
    };
    tile = reinterpret_cast<uint8_t*>(
        take((kPieceQuads > 4 * kFloatPieceQuads ? kPieceQuads : 4 * kFloatPieceQuads) * kCols * 4));
    scales = reinterpret_cast<float*>(take((args.segments + 1) * kCols * 4));
    sums = reinterpret_cast<float*>(take(rows * kCols * 4));
    carry = reinterpret_cast<int32_t*>(take(rows * kCols * 4));
    bytes = at - static_cast<char*>(memory);
  }
};

/// Unpacks `codes` codes of `columns` weight rows: store(half, word, Int<q>, quad) gets quad q of that word of kLanes
/// columns from `half` on, words in order, as unsigned codes. As many bytes are fetched from `next`. Absent columns
/// give rubbish that nothing reads; codes after the last one meet zero activations.
template <Codes kB, class Store>
void FillTile(const uint8_t* b, int64_t b_row, int64_t columns, int64_t codes, const uint8_t* next,
              const Store& store) {
  const int64_t bytes = kB == Codes::kS4 ? (codes + 1) / 2 : codes;
  for (int64_t half = 0; half < kCols; half += kLanes) {
    for (int64_t at = 0; at < bytes; at += kChunk) {
      const uint8_t *from = b + half * b_row + at, *ahead = next + at * kCols + half * kChunk;
      const bool full = half + kLanes <= columns && at + kChunk <= bytes;
      typename Isa::I rows[kLanes];
      if (full) {
        Unroll<kLanes>([&](auto i) LOWBIT_INLINE {
          if (i.value * kChunk % kLine == 0) Isa::Prefetch(ahead + i.value * kChunk);
          rows[i.value] = Isa::LoadBytes(from);
          from += b_row;
        });
      } else {
        Unroll<kLanes>([&](auto i) LOWBIT_INLINE {
          rows[i.value] = Isa::LoadBytes(from, half + i.value < columns ? bytes - at : 0);
          from += b_row;
        });
      }
      Isa::Transpose(rows);
      const int64_t words = (bytes - at + 3) / 4;
      Unroll<kLanes>([&](auto i) LOWBIT_INLINE {
        if (full || i.value < words) {
          Isa::template ForQuads<kB>(rows[i.value], [&](auto q, typename Isa::I quad)
                                                        LOWBIT_INLINE { store(half, at / 4 + i.value, q, quad); });
        }
      });
    }
  }
}

/// A run of quads of one segment inside a piece.
struct Part {
  int64_t quad;  // first quad, counted over the whole row of packed activations
  int64_t quads;
  int64_t segment;   // its index; `segments` for the outliers
  bool first, last;  // of its segment
};

template <Codes kB, int kR>
void ComputePart(const Args& args, const Block& block, const Part& part, const uint8_t* tile, const void* panel,
                 const int32_t* start, const Scratch& scratch, int64_t row) {
  using F = typename Isa::F;
  float* sums = scratch.sums + row * kCols;
  const float* scale =
      scratch.scales + (part.segment == args.segments ? part.segment : part.segment * args.b_scale_step) * kCols;
  const F scale0 = Isa::LoadF(scale), scale1 = Isa::LoadF(scale + Isa::kLanes);
  int32_t* carry = scratch.carry + row * kCols;
  typename Isa::I acc[kR][2];
  if (part.first) {
    const int32_t* at = start + part.segment * block.rows + row;
    Unroll<kR>([&](auto r) LOWBIT_INLINE { acc[r.value][0] = acc[r.value][1] = Isa::SetI(at[r.value]); });
  } else {
    Unroll<kR>([&](auto r) LOWBIT_INLINE {
      acc[r.value][0] = Isa::LoadI(carry + r.value * kCols);
      acc[r.value][1] = Isa::LoadI(carry + r.value * kCols + Isa::kLanes);
    });
  }
  Isa::template Dot<kB, kR>(acc, tile, static_cast<const int8_t*>(panel) + part.quad * 4 * kR, part.quads);
  if (!part.last) {
    Unroll<kR>([&](auto r) LOWBIT_INLINE {
      Isa::StoreI(carry + r.value * kCols, acc[r.value][0]);
      Isa::StoreI(carry + r.value * kCols + Isa::kLanes, acc[r.value][1]);
    });
    return;
  }
  const int64_t a_index = part.segment == args.segments ? args.a_scale_row - 1 : part.segment * args.a_scale_step;
  const float* a_scale = args.a_scale + (block.row + row) * args.a_scale_row + a_index;
  const int64_t a_scale_row = args.a_scale_row;
  Unroll<kR>([&](auto r) LOWBIT_INLINE {
    const F scale_a = Isa::SetF(a_scale[r.value * a_scale_row]);
    float* out = sums + r.value * kCols;
    Isa::StoreF(out, Isa::MulAdd(Isa::Mul(Isa::ToFloat(acc[r.value][0]), scale0), scale_a, Isa::LoadF(out)));
    Isa::StoreF(out + Isa::kLanes,
                Isa::MulAdd(Isa::Mul(Isa::ToFloat(acc[r.value][1]), scale1), scale_a, Isa::LoadF(out + Isa::kLanes)));
  });
}

/// The parts of one piece for every panel of the block: the tile stays in L1 while the panels stream past. With the
/// last piece a panel's y is written: its lines come while the next panel is computed.
template <Codes kB>
void ComputePiece(const Args& args, const Block& block, const Part* parts, int count, const char* packed, int64_t quads,
                  const int32_t* start, const Scratch& scratch, bool last) {
  const Panels panels(block.rows, Isa::kRows);
  for (int64_t p = 0; p < panels.count; ++p) {
    const int64_t row = panels.Begin(p);
    const char* panel = packed + row * quads * 4;
    const auto compute = [&]<int kR>(Rows<kR>) {
      const uint8_t* tile = scratch.tile;
      for (int i = 0; i < count; ++i) {
        ComputePart<kB, kR>(args, block, parts[i], tile, panel, start, scratch, row);
        tile += parts[i].quads * kCols * 4;
      }
    };
    const Block part{block.row + row, panels.Size(p), block.n_begin, block.n_end};
    if (last) FetchOutput<kCols>(args, part);
    WithRows<Isa::kRows>(panels.Size(p), compute);
    if (last) Finish<kCols>(args, part, scratch.sums + row * kCols);
  }
}

/// All pieces of `segments` equal segments that lie one after the other in the weight rows; `last` ones finish y.
template <Codes kB>
void ComputeSegments(const Args& args, const Block& block, const uint8_t* b, int64_t b_row, int64_t first_segment,
                     int64_t segments, int64_t segment, int64_t first_quad, const char* packed, int64_t quads,
                     const int32_t* start, const Scratch& scratch, bool last) {
  constexpr int64_t kPiece = kPieceQuads;
  constexpr int64_t kCodesPerByte = kB == Codes::kS4 ? 2 : 1;
  const int64_t columns = Min(kCols, args.n - block.n_begin);
  const int64_t segment_quads = Quads<kB>(segment);
  const int64_t per_piece = segment_quads < kPiece ? kPiece / segment_quads : 1;
  for (int64_t s = 0; s < segments; s += per_piece) {
    const int64_t whole = Min(per_piece, segments - s);
    // Either several whole segments, or one segment in several runs.
    for (int64_t q = 0; q < segment_quads; q += kPiece) {
      const int64_t run = whole > 1 ? segment_quads : Min(kPiece, segment_quads - q);
      Part parts[kPiece];
      for (int64_t i = 0; i < whole; ++i) {
        const int64_t at = (s + i) * segment_quads + q;
        parts[i] = {first_quad + at, run, first_segment + s + i, q == 0, q + run == segment_quads};
      }
      const int64_t code = s * segment + q * 4;
      const int64_t codes = Min(whole * run * 4, segments * segment - code);
      // Meanwhile the next tile is fetched, from front to back: rows are too far apart for the hardware to guess.
      const uint8_t* next = b + kCols * (b_row + code / kCodesPerByte);
      const auto store = [tile = scratch.tile](int64_t half, int64_t word, auto q, typename Isa::I quad) LOWBIT_INLINE {
        Isa::StoreI(tile + ((word * (kWordCodes<kB> / 4) + q.value) * kCols + half) * 4, quad);
      };
      FillTile<kB>(b + code / kCodesPerByte, b_row, columns, codes, next, store);
      const bool last_piece = last && s + whole == segments && q + run == segment_quads;
      ComputePiece<kB>(args, block, parts, static_cast<int>(whole), packed, quads, start, scratch, last_piece);
    }
  }
}

/// Body and outliers of codes times codes.
template <Codes kB>
void ComputeCodes(const Args& args, const Block& block, const char* panels, const Scratch& scratch) {
  const PackedLayout<kB> layout(args, block.rows, false);
  const int32_t* start = reinterpret_cast<const int32_t*>(panels + layout.start_offset);
  for (int64_t i = 0; i < block.rows * kCols; i += Isa::kLanes) Isa::StoreF(scratch.sums + i, Isa::SetF(0));
  ComputeSegments<kB>(args, block, args.b + block.n_begin * args.b_row, args.b_row, 0, args.segments, args.segment, 0,
                      panels, layout.quads, start, scratch, args.outliers == 0);
  if (args.outliers == 0) return;
  FillScales(scratch.scales + args.segments * kCols, args.b_outlier_scale + block.n_begin, 1, 1,
             Min(kCols, args.n - block.n_begin));
  const uint8_t* b = reinterpret_cast<const uint8_t*>(args.b_outlier) + block.n_begin * args.b_outlier_row;
  ComputeSegments<Codes::kS8>(args, block, b, args.b_outlier_row, args.segments, 1, args.outliers, layout.body_quads,
                              panels, layout.quads, start, scratch, true);
}

/// acc[r][c] += sum over `steps` channels of weights, two registers each, times kR activations.
template <int kR>
LOWBIT_INLINE inline void DotFloats(typename Isa::F (&acc)[kR][2], const float* tile, const float* a, int64_t steps) {
  for (int64_t k = 0; k < steps; ++k, tile += kCols, a += kR) {
    const typename Isa::F b0 = Isa::LoadF(tile), b1 = Isa::LoadF(tile + kLanes);
    Unroll<kR>([&](auto r) LOWBIT_INLINE {
      const typename Isa::F broadcast = Isa::SetF(a[r.value]);
      acc[r.value][0] = Isa::MulAdd(b0, broadcast, acc[r.value][0]);
      acc[r.value][1] = Isa::MulAdd(b1, broadcast, acc[r.value][1]);
    });
  }
}

/// Body of floats times codes: a code times its scale is exact in a float, so a piece may hold several segments.
template <Codes kB>
void ComputeFloats(const Args& args, const Block& block, const float* panels, const Scratch& scratch) {
  constexpr int64_t kQuadsPerWord = kWordCodes<kB> / 4, kCodesPerByte = kB == Codes::kS4 ? 2 : 1;
  const int64_t columns = Min(kCols, args.n - block.n_begin);
  const int64_t segment_words = Quads<kB>(args.segment) / kQuadsPerWord;
  const int64_t quads = args.segments * segment_words * kQuadsPerWord;
  const int64_t row_quads = PackedLayout<kB>(args, block.rows, true).quads;
  const uint8_t* b = args.b + block.n_begin * args.b_row;
  const Panels all(block.rows, Isa::kRows);
  float* tile = reinterpret_cast<float*>(scratch.tile);
  for (int64_t first = 0; first < quads; first += kFloatPieceQuads) {
    const int64_t count = Min(kFloatPieceQuads, quads - first), code = first * 4;
    const int64_t skipped = first / kQuadsPerWord % segment_words, segment = first / kQuadsPerWord / segment_words;
    int64_t left = 0;
    const float* scale = nullptr;
    const auto store = [&](int64_t half, int64_t word, auto q, typename Isa::I quad) LOWBIT_INLINE {
      if (q.value == 0) {
        if (word == 0) {
          scale = scratch.scales + segment * kCols + half;
          left = segment_words - skipped;
        } else if (left == 0) {
          scale += kCols;
          left = segment_words;
        }
        --left;
      }
      float* to = tile + (word * kQuadsPerWord + q.value) * 4 * kCols + half;
      Isa::template StoreFloats<kB>(to, kCols, quad, Isa::LoadF(scale));
    };
    // Meanwhile the next tile is fetched.
    const uint8_t* next = b + kCols * (args.b_row + code / kCodesPerByte);
    FillTile<kB>(b + code / kCodesPerByte, args.b_row, columns, Min(count * 4, args.body - code), next, store);
    for (int64_t p = 0; p < all.count; ++p) {
      const int64_t row = all.Begin(p);
      const Block part{block.row + row, all.Size(p), block.n_begin, block.n_end};
      const bool last = first + count == quads;
      if (last) FetchOutput<kCols>(args, part);
      WithRows<Isa::kRows>(all.Size(p), [&]<int kR>(Rows<kR>) {
        float* sums = scratch.sums + row * kCols;
        typename Isa::F acc[kR][2];
        Unroll<kR>([&](auto r) LOWBIT_INLINE {
          const float* from = sums + r.value * kCols;
          acc[r.value][0] = first == 0 ? Isa::SetF(0) : Isa::LoadF(from);
          acc[r.value][1] = first == 0 ? Isa::SetF(0) : Isa::LoadF(from + kLanes);
        });
        DotFloats<kR>(acc, tile, panels + (row * row_quads + first * kR) * 4, count * 4);
        Unroll<kR>([&](auto r) LOWBIT_INLINE {
          Isa::StoreF(sums + r.value * kCols, acc[r.value][0]);
          Isa::StoreF(sums + r.value * kCols + kLanes, acc[r.value][1]);
        });
        if (last) Finish<kCols>(args, part, sums);
      });
    }
  }
}

template <Codes kA, Codes kB>
void RunPanels(const Args& args, const Block& all, const void* packed, void* memory) {
  const Scratch scratch(memory, args, all.rows);
  for (int64_t n = all.n_begin; n < all.n_end; n += kCols) {
    const Block block{all.row, all.rows, n, Min(n + kCols, all.n_end)};
    FillScales(scratch.scales, args.b_scale + n * args.b_scale_row, args.b_scale_row, args.b_scale_row,
               Min(kCols, args.n - n));
    if constexpr (kA == Codes::kFloat) {
      ComputeFloats<kB>(args, block, static_cast<const float*>(packed), scratch);
    } else {
      ComputeCodes<kB>(args, block, static_cast<const char*>(packed), scratch);
    }
  }
}

template <Codes kA, Codes kB>
int64_t PackedBytes(const Args& args, int64_t rows) {
  return PackedLayout<kB>(args, rows, kA == Codes::kFloat).bytes;
}

inline int64_t ScratchBytes(const Args& args, int64_t rows) { return Scratch(nullptr, args, rows).bytes; }

inline bool AcceptsAny(const Shape&) { return true; }

template <Codes kA, Codes kB>
constexpr GemmKernel PanelKernel(const char* name) {
  constexpr auto pack = kA == Codes::kFloat ? PackFloatPanels<kB> : PackCodePanels<kB>;
  return {name,       Isa::kNeeds,         kA,           kB,   kMaxRows,         Isa::kRows, kCols,
          AcceptsAny, PackedBytes<kA, kB>, ScratchBytes, pack, RunPanels<kA, kB>};
}
