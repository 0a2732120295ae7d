// Activations as the blocked product reads them, once for every instruction set. Included by panel.inl.
//
// Codes are multiplied four at a time, a quad being the unit that one 32-bit lane holds. An s4 row yields for each of
// its 32-bit words (eight codes) the quad of even codes, then that of odd ones: masking and shifting, no shuffling.
// Activations are packed in the same order, float ones as four floats in the place of four codes.
//
//   packed activations   [panel][quad][row of panel][4 codes], then int32 start [segment][row]

constexpr int64_t kLanes = Isa::kLanes;
constexpr int64_t kChunk = kLanes * 4;  // bytes in a register

constexpr int64_t kLine = 64;
inline int64_t AlignUp(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }
#include "ops/quant-gemm/cpu/finish.inl"

/// Codes of a segment after zero padding to whole words of the weight row.
template <Codes kB>
constexpr int64_t kWordCodes = kB == Codes::kS4 ? 8 : 4;

template <Codes kB>
int64_t Quads(int64_t codes) {
  return (codes + kWordCodes<kB> - 1) / kWordCodes<kB> * (kWordCodes<kB> / 4);
}

/// Where things are in a packed block.
template <Codes kB>
struct PackedLayout {
  int64_t body_quads, outlier_quads, quads, start_offset, bytes;
  PackedLayout(const Args& args, int64_t rows, bool floats)
      : body_quads(args.segments * Quads<kB>(args.segment)),
        outlier_quads(Quads<Codes::kS8>(args.outliers)),
        quads(body_quads + outlier_quads),
        start_offset(AlignUp(rows * quads * (floats ? 16 : 4))),
        bytes(start_offset + (floats ? 0 : (args.segments + 1) * rows * 4)) {}
};

/// Lane i of lanes[r] goes to out[place(i) * rows + r], for i < count and r < rows.
template <class Place>
LOWBIT_INLINE inline void StoreColumns(typename Isa::I (&lanes)[kLanes], int64_t count, int32_t* out, int64_t rows,
                                       const Place& place) {
  Isa::Transpose(lanes);
  Unroll<kLanes>([&](auto i) LOWBIT_INLINE {
    if (i.value < count) Isa::StoreFirst(out + place(i.value) * rows, rows, lanes[i.value]);
  });
}

/// Packs a segment of `codes` codes of `rows` rows, `a_row` apart, and writes where their sums start.
template <Codes kB>
void PackSegment(const int8_t* a, int64_t a_row, int64_t codes, int64_t rows, int32_t* out, int32_t* start) {
  using I = typename Isa::I;
  I sums[kLanes];
  Unroll<kLanes>([&](auto r) LOWBIT_INLINE { sums[r.value] = Isa::SetI(0); });
  for (int64_t k = 0; k < codes; k += Isa::kPackCodes) {
    const int64_t count = Min(Isa::kPackCodes, codes - k), quads = Quads<kB>(count);
    I lanes[kLanes];
    Unroll<kLanes>([&](auto r) LOWBIT_INLINE {
      if constexpr (r.value < Isa::kRows) {
        // Behind the last row, the last one again. Meanwhile the next panel's are fetched.
        const int8_t* from = a + Min(r.value, rows - 1) * a_row + k;
        Isa::Prefetch(from + rows * a_row);
        lanes[r.value] = Isa::LoadBytes(from, count);
      } else {
        lanes[r.value] = Isa::SetI(0);
      }
      sums[r.value] = Isa::AddCodes(sums[r.value], lanes[r.value]);
      lanes[r.value] = Isa::template OrderCodes<kB>(lanes[r.value]);
    });
    StoreColumns(lanes, quads, out, rows, [](int64_t i) { return i; });
    out += quads * rows;
  }
  alignas(64) int32_t totals[kLanes];
  Isa::StoreI(totals, Isa::SumEach(sums));
  for (int64_t r = 0; r < rows; ++r) start[r] = -(kB == Codes::kS4 ? 8 : 128) * totals[r];
}

/// Rows in panels of at most Isa::kRows.
template <Codes kB>
void PackCodePanels(const Args& args, const Block& block, int64_t begin, int64_t end, void* packed) {
  const PackedLayout<kB> layout(args, block.rows, false);
  const Panels panels(block.rows, Isa::kRows);
  const int64_t a_row = args.body + args.outliers, quads = Quads<kB>(args.segment);
  for (int64_t p = begin; p < end; ++p) {
    const int64_t first = panels.Begin(p), rows = panels.Size(p);
    const int8_t* a = static_cast<const int8_t*>(args.a) + (block.row + first) * a_row;
    int32_t* panel = static_cast<int32_t*>(packed) + first * layout.quads;
    int32_t* start = reinterpret_cast<int32_t*>(static_cast<char*>(packed) + layout.start_offset) + first;
    for (int64_t s = 0; s < args.segments; ++s, start += block.rows) {
      PackSegment<kB>(a + s * args.segment, a_row, args.segment, rows, panel + s * quads * rows, start);
    }
    if (args.outliers > 0) {
      PackSegment<Codes::kS8>(a + args.body, a_row, args.outliers, rows, panel + layout.body_quads * rows, start);
    }
  }
}

/// Float activations keep four floats where codes keep four bytes: [quad][code of the quad][row].
template <Codes kB>
void PackFloatPanels(const Args& args, const Block& block, int64_t begin, int64_t end, void* packed) {
  const PackedLayout<kB> layout(args, block.rows, true);
  const Panels panels(block.rows, Isa::kRows);
  const int64_t padded = Quads<kB>(args.segment) * 4;
  // The even codes of a word, then the odd ones.
  const auto place = [](int64_t i) { return kB == Codes::kS8 ? i : i / 8 * 8 + i % 2 * 4 + i % 8 / 2; };
  for (int64_t p = begin; p < end; ++p) {
    const int64_t first = panels.Begin(p), rows = panels.Size(p);
    int32_t* out = static_cast<int32_t*>(packed) + first * layout.quads * 4;
    for (int64_t s = 0; s < args.segments; ++s, out += padded * rows) {
      for (int64_t k = 0; k < padded; k += kLanes) {
        const int64_t there = args.segment - k < 0 ? 0 : Min(kLanes, args.segment - k);
        typename Isa::I lanes[kLanes];
        Unroll<kLanes>([&](auto r) LOWBIT_INLINE {
          if constexpr (r.value < Isa::kRows) {
            const int64_t row = (block.row + first + Min(r.value, rows - 1)) * args.body,
                          at = row + s * args.segment + k;
            FetchAhead(args.a, at, rows * args.body, args.half_a);
            lanes[r.value] = Isa::Bits(Isa::LoadAny(args.a, at, there, args.half_a));
          } else {
            lanes[r.value] = Isa::SetI(0);
          }
        });
        StoreColumns(lanes, padded - k, out + k * rows, rows, place);
      }
    }
  }
}
