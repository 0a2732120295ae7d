// One row times the weights, once for every instruction set. Included after panel.inl.
//
// With one row the transposition that other kernels begin with is not worth it. Dot products run along K, where weights
// and activations lie next to each other; what costs is adding up the lanes of each product, so kLanes products are
// added up together. Weights are read in the order in which they are stored, from end to end: whatever the shape, the
// hardware sees one stream.
//
//   packed row   codes of every segment in the order of Isa::OrderChunk, then int32 [segment] starts, then float
//                [segment] scales; with several segments the first kLanes - 1 once more behind the last one, so that
//                kLanes of them in turn lie one after the other wherever they begin; the same for the outliers

constexpr int64_t kFetchAhead = 8192;   // bytes; less does not hide memory, more does not fit
constexpr int64_t kStreamBytes = 2048;  // longer rows are read one after the other
constexpr int64_t kTermsAtOnce = 512;   // as many registers of weights: 32 KiB, which a second row finds in L1

/// Where things are in the packed row, for one family of equal segments.
template <Codes kB>
struct RowLayout {
  static constexpr int64_t kCodesPerByte = kB == Codes::kS4 ? 2 : 1;
  int64_t segments, codes, stored, chunks, start_offset, scale_offset, bytes;
  RowLayout(int64_t segment_count, int64_t segment_codes)
      : segments(segment_count),
        codes(segment_codes),
        stored(segments == 1 ? 1 : segments + kLanes - 1),
        chunks((codes + kChunk * kCodesPerByte - 1) / (kChunk * kCodesPerByte)),
        start_offset(stored * SegmentBytes()),
        scale_offset(start_offset + AlignUp(stored * 4)),
        bytes(scale_offset + AlignUp(stored * 4)) {}

  int64_t SegmentBytes() const { return chunks * kChunk * kCodesPerByte; }
  /// Of a segment in a weight row.
  int64_t WeightBytes() const { return (codes + kCodesPerByte - 1) / kCodesPerByte; }

  void Pack(const int8_t* a, const float* scale, int64_t scale_step, char* out) const {
    int32_t* starts = reinterpret_cast<int32_t*>(out + start_offset);
    float* scales = reinterpret_cast<float*>(out + scale_offset);
    for (int64_t s = 0; s < stored; ++s) {
      const int64_t segment = s % segments;
      int32_t sum = 0;
      for (int64_t c = 0; c < chunks; ++c) {
        const int64_t code = c * kChunk * kCodesPerByte;
        sum += Isa::template OrderChunk<kB>(a + segment * codes + code, codes - code, out + s * SegmentBytes() + code);
      }
      starts[s] = -(kB == Codes::kS4 ? 8 : 128) * sum;
      scales[s] = scale[segment * scale_step];
    }
  }
};

/// The sums of one segment with `columns` channels (kLanes at most) whose weights begin at `b`, `row_bytes` apart:
/// kTogether channels side by side, which share the activations that are read.
template <Codes kB, int kTogether>
typename Isa::I RowSegment(const RowLayout<kB>& layout, const char* row, const uint8_t* b, int64_t row_bytes,
                           int64_t columns) {
  using I = typename Isa::I;
  const int64_t bytes = layout.WeightBytes(), whole = bytes / kChunk * kChunk;
  I acc[kLanes];
  for (int64_t l = 0; l < kLanes; l += kTogether) {
    const uint8_t* from[kTogether];
    I sum[kTogether];
    Unroll<kTogether>([&](auto i) LOWBIT_INLINE {
      from[i.value] = b + Min(l + i.value, columns - 1) * row_bytes;  // behind the last channel, the last one again
      sum[i.value] = Isa::SetI(0);
    });
    for (int64_t at = 0; at < whole; at += kChunk) {
      const typename Isa::template Ordered<kB> a(row + at * layout.kCodesPerByte);
      Unroll<kTogether>([&](auto i) LOWBIT_INLINE {
        Isa::Prefetch(from[i.value] + at + kFetchAhead);
        sum[i.value] = a.Dot(sum[i.value], Isa::LoadBytes(from[i.value] + at));
      });
    }
    if (whole < bytes) {
      const typename Isa::template Ordered<kB> a(row + whole * layout.kCodesPerByte);
      Unroll<kTogether>([&](auto i) LOWBIT_INLINE {
        sum[i.value] = a.Dot(sum[i.value], Isa::LoadBytes(from[i.value] + whole, bytes - whole));
      });
    }
    Unroll<kTogether>([&](auto i) LOWBIT_INLINE { acc[l + i.value] = sum[i.value]; });
  }
  return Isa::AddI(Isa::SumEach(acc), Isa::SetI(*reinterpret_cast<const int32_t*>(row + layout.start_offset)));
}

/// RowSegment, scaled; `b_scale` is at the first channel's.
template <Codes kB>
typename Isa::F RowTerm(const RowLayout<kB>& layout, const char* row, const uint8_t* b, int64_t row_bytes,
                        const uint16_t* b_scale, int64_t columns) {
  const bool one_stream = layout.WeightBytes() >= kStreamBytes;
  const auto segment = one_stream ? RowSegment<kB, 1> : RowSegment<kB, 4>;
  const typename Isa::F sums = Isa::ToFloat(segment(layout, row, b, row_bytes, columns));
  const float scale = *reinterpret_cast<const float*>(row + layout.scale_offset);
  return Isa::Mul(Isa::Mul(sums, Isa::SetF(scale)), Isa::LoadAny(b_scale, 0, Min(kLanes, columns), true));
}

/// What `columns` channels from `n` on have of each s4 segment of one register, [channel][segment], without the weight
/// scale where a channel has only one.
inline void FillTerms(const Args& args, const RowLayout<Codes::kS4>& layout, const char* row, int64_t n,
                      int64_t columns, float* terms) {
  const int32_t* starts = reinterpret_cast<const int32_t*>(row + layout.start_offset);
  const float* scales = reinterpret_cast<const float*>(row + layout.scale_offset);
  const uint8_t* b = args.b + n * args.b_row;
  const uint16_t* b_scale = args.b_scale + n * args.b_scale_row;
  const int64_t count = columns * args.segments;
  const typename Isa::I zero = Isa::SetI(0);
  int64_t segment = 0;
  for (int64_t i = 0; i < count; i += kLanes, b += kLanes * kChunk) {
    const int64_t there = Min(kLanes, count - i);
    const char* a = row + segment * 2 * kChunk;
    typename Isa::I acc[kLanes];
    const auto dot = [&](auto l, const uint8_t* from) LOWBIT_INLINE {
      acc[l.value] =
          typename Isa::template Ordered<Codes::kS4>(a + l.value * 2 * kChunk).Dot(zero, Isa::LoadBytes(from));
    };
    if (there == kLanes) {
      Unroll<kLanes>([&](auto l) LOWBIT_INLINE {
        Isa::Prefetch(b + l.value * kChunk + kFetchAhead);
        dot(l, b + l.value * kChunk);
      });
    } else {
      // Behind the last one, the last one again.
      Unroll<kLanes>([&](auto l) LOWBIT_INLINE { dot(l, b + Min(l.value, there - 1) * kChunk); });
    }
    const typename Isa::F sums = Isa::ToFloat(Isa::AddI(Isa::SumEachSmall(acc), Isa::LoadI(starts + segment)));
    typename Isa::F term = Isa::Mul(sums, Isa::LoadF(scales + segment));
    if (args.b_scale_step != 0) term = Isa::Mul(term, Isa::LoadAny(b_scale, i, there, true));
    Isa::StoreF(terms + i, term);
    for (segment += kLanes; segment >= args.segments;) segment -= args.segments;
  }
}

/// The sums of `columns` channels (kLanes at most) over what FillTerms has filled; `b_scale` is at the first channel's.
inline typename Isa::F SumTerms(const Args& args, const float* terms, const uint16_t* b_scale, int64_t columns) {
  using F = typename Isa::F;
  F parts[kLanes];
  Unroll<kLanes>([&](auto c) LOWBIT_INLINE {
    // Behind the last channel, the last one again.
    const float* from = terms + Min(c.value, columns - 1) * args.segments;
    parts[c.value] = Isa::LoadAny(from, 0, Min(kLanes, args.segments), false);
    for (int64_t s = kLanes; s < args.segments; s += kLanes) {
      const F more = Isa::LoadAny(from, s, Min(kLanes, args.segments - s), false);
      parts[c.value] = Isa::Add(parts[c.value], more);
    }
  });
  const F sums = Isa::SumEach(parts);
  return args.b_scale_step != 0 ? sums : Isa::Mul(sums, Isa::LoadAny(b_scale, 0, columns, true));
}

template <Codes kB>
struct RowBlock {
  RowLayout<kB> body;
  RowLayout<Codes::kS8> outliers;
  explicit RowBlock(const Args& args) : body(args.segments, args.segment), outliers(1, args.outliers) {}
  int64_t Bytes() const { return body.bytes + outliers.bytes; }
};

template <Codes kB>
void PackRow(const Args& args, const Block& block, int64_t begin, int64_t end, void* packed) {
  const RowBlock<kB> layout(args);
  for (int64_t r = begin; r < end; ++r) {
    const int8_t* a = static_cast<const int8_t*>(args.a) + (block.row + r) * (args.body + args.outliers);
    const float* scale = args.a_scale + (block.row + r) * args.a_scale_row;
    char* out = static_cast<char*>(packed) + r * layout.Bytes();
    layout.body.Pack(a, scale, args.a_scale_step, out);
    if (args.outliers > 0)
      layout.outliers.Pack(a + args.body, scale + args.a_scale_row - 1, 0, out + layout.body.bytes);
  }
}

/// Channels whose terms are computed before they are summed, a multiple of kLanes.
inline int64_t ChannelsAtOnce(const Args& args) {
  const int64_t tiles = args.segments == 1 ? 1 : kTermsAtOnce / (args.segments * kLanes);
  return (tiles > 1 ? tiles : 1) * kLanes;
}

template <Codes kB>
void RunRow(const Args& args, const Block& block, const void* packed, void* scratch) {
  const RowBlock<kB> layout(args);
  float* terms = static_cast<float*>(scratch);
  const int64_t step = ChannelsAtOnce(args), n_end = block.n_end;
  for (int64_t first = block.n_begin; first < n_end; first += step) {
    const int64_t end = Min(first + step, n_end);
    for (int64_t r = 0; r < block.rows; ++r) {
      const char* row = static_cast<const char*>(packed) + r * layout.Bytes();
      if constexpr (kB == Codes::kS4) {
        if (args.segments > 1) FillTerms(args, layout.body, row, first, end - first, terms);
      }
      for (int64_t n = first; n < end; n += kLanes) {
        const int64_t columns = Min(kLanes, end - n);
        const uint16_t* b_scale = args.b_scale + n * args.b_scale_row;
        typename Isa::F y = args.segments > 1
                                ? SumTerms(args, terms + (n - first) * args.segments, b_scale, columns)
                                : RowTerm<kB>(layout.body, row, args.b + n * args.b_row, args.b_row, b_scale, columns);
        if (args.outliers > 0) {
          const uint8_t* b = reinterpret_cast<const uint8_t*>(args.b_outlier) + n * args.b_outlier_row;
          y = Isa::Add(y, RowTerm<Codes::kS8>(layout.outliers, row + layout.body.bytes, b, args.b_outlier_row,
                                              args.b_outlier_scale + n, columns));
        }
        alignas(64) float sums[kLanes];
        Isa::StoreF(sums, y);
        Finish<kLanes>(args, {block.row + r, 1, n, n + columns}, sums);
      }
    }
  }
}

template <Codes kB>
int64_t RowPackedBytes(const Args& args, int64_t rows) {
  return rows * RowBlock<kB>(args).Bytes();
}

inline int64_t RowScratchBytes(const Args& args, int64_t) {
  return AlignUp(ChannelsAtOnce(args) * args.segments * static_cast<int64_t>(sizeof(float)));
}

/// s4 groups of one register of weights, or no groups.
template <Codes kB>
bool RowAccepts(const Shape& shape) {
  return shape.rows <= kFewRows && (shape.segments == 1 || (kB == Codes::kS4 && shape.segment == 2 * kChunk));
}
