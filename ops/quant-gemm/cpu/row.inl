// One row times the weights, once for every instruction set. Included after panel.inl.
//
// With one row the transposition that other kernels begin with is not worth it. Dot products run along K, where weights
// and activations lie next to each other; what costs is adding up the lanes of each product, so kLanes products are
// added up together.
//
//   packed row   codes of every segment in the order of Isa::OrderChunk, then int32 [segment] starts, then float
//   [segment] scales; the
//                body with four segments at a time, missing ones having codes, starts and scales of zero; then the same
//                for the outliers

constexpr int64_t kSegmentsAtOnce = 4;
constexpr int64_t kChannelsAtOnce = kLanes / kSegmentsAtOnce;

/// Where things are in the packed row, for one family of equal segments.
template <Codes kB>
struct RowLayout {
  static constexpr int64_t kCodesPerByte = kB == Codes::kS4 ? 2 : 1;
  int64_t segments, codes, stored, chunks, start_offset, scale_offset, bytes;
  RowLayout(int64_t segment_count, int64_t segment_codes)
      : segments(segment_count),
        codes(segment_codes),
        stored(segments == 1 ? 1 : (segments + kSegmentsAtOnce - 1) / kSegmentsAtOnce * kSegmentsAtOnce),
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
      const int64_t count = s < segments ? codes : 0;
      int32_t sum = 0;
      for (int64_t c = 0; c < chunks; ++c) {
        const int64_t code = c * kChunk * kCodesPerByte;
        sum += Isa::template OrderChunk<kB>(a + s * codes + code, count - code, out + s * SegmentBytes() + code);
      }
      starts[s] = -(kB == Codes::kS4 ? 8 : 128) * sum;
      scales[s] = s < segments ? scale[s * scale_step] : 0.0f;
    }
  }
};

/// The sums of one segment with `columns` channels (kLanes at most) whose weights begin at `b`, `row_bytes` apart.
template <Codes kB>
typename Isa::I RowSegment(const RowLayout<kB>& layout, const char* row, const uint8_t* b, int64_t row_bytes,
                           int64_t columns) {
  using I = typename Isa::I;
  I acc[kLanes];
  Unroll<kLanes>([&](auto l) LOWBIT_INLINE { acc[l.value] = Isa::SetI(0); });
  for (int64_t c = 0; c < layout.chunks; ++c) {
    const typename Isa::template Ordered<kB> a(row + c * kChunk * layout.kCodesPerByte);
    const int64_t bytes = Min(kChunk, layout.WeightBytes() - c * kChunk);
    const uint8_t *from = b + c * kChunk, *ahead = b + kLanes * (row_bytes + c * kChunk);
    if (bytes == kChunk && columns >= kLanes) {
      Unroll<kLanes>([&](auto l) LOWBIT_INLINE {
        Isa::Prefetch(ahead + l.value * kChunk);
        acc[l.value] = a.Dot(acc[l.value], Isa::LoadBytes(from));
        from += row_bytes;
      });
    } else {
      Unroll<kLanes>([&](auto l) LOWBIT_INLINE {
        acc[l.value] = a.Dot(acc[l.value], Isa::LoadBytes(from, l.value < columns ? bytes : 0));
        from += row_bytes;
      });
    }
  }
  return Isa::AddI(Isa::SumEach(acc), Isa::SetI(*reinterpret_cast<const int32_t*>(row + layout.start_offset)));
}

/// RowSegment, scaled; `b_scale` is at the first channel's.
template <Codes kB>
typename Isa::F RowTerm(const RowLayout<kB>& layout, const char* row, const uint8_t* b, int64_t row_bytes,
                        const uint16_t* b_scale, int64_t columns) {
  const typename Isa::F sums = Isa::ToFloat(RowSegment<kB>(layout, row, b, row_bytes, columns));
  const float scale = *reinterpret_cast<const float*>(row + layout.scale_offset);
  return Isa::Mul(Isa::Mul(sums, Isa::SetF(scale)), Isa::LoadAny(b_scale, 0, Min(kLanes, columns), true));
}

/// Body sums of kChannelsAtOnce channels from `n` on with s4 segments of one register each: lane [channel][segment mod
/// 4].
inline typename Isa::F RowGroups(const Args& args, const RowLayout<Codes::kS4>& layout, const char* row, int64_t n) {
  const int32_t* starts = reinterpret_cast<const int32_t*>(row + layout.start_offset);
  const float* scales = reinterpret_cast<const float*>(row + layout.scale_offset);
  const uint8_t* b = args.b + n * args.b_row;
  const uint16_t* b_scale = args.b_scale + n * args.b_scale_row;
  typename Isa::F sum = Isa::SetF(0);
  for (int64_t s = 0; s < args.segments; s += kSegmentsAtOnce) {
    const int64_t there = Min(kSegmentsAtOnce, args.segments - s);
    const uint8_t* ahead = b + kChannelsAtOnce * (args.b_row + s * kChunk);
    typename Isa::I acc[kLanes];
    Unroll<kSegmentsAtOnce>([&](auto i) LOWBIT_INLINE {
      const typename Isa::template Ordered<Codes::kS4> a(row + (s + i.value) * 2 * kChunk);
      // A missing segment reads the last one's weights and multiplies them with zeros.
      const uint8_t* from = b + Min(s + i.value, args.segments - 1) * kChunk;
      Unroll<kChannelsAtOnce>([&](auto c) LOWBIT_INLINE {
        Isa::Prefetch(ahead + (i.value * kChannelsAtOnce + c.value) * kChunk);
        acc[c.value * kSegmentsAtOnce + i.value] = a.Dot(Isa::SetI(0), Isa::LoadBytes(from));
        from += args.b_row;
      });
    });
    const typename Isa::I exact = Isa::AddI(Isa::SumEachSmall(acc), Isa::Repeat4(starts + s));
    const typename Isa::F scale =
        Isa::Mul(Isa::LoadHalves4(b_scale + s * args.b_scale_step, args.b_scale_row, there, args.b_scale_step),
                 Isa::Repeat4(scales + s));
    sum = Isa::MulAdd(Isa::ToFloat(exact), scale, sum);
  }
  return sum;
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

template <Codes kB>
void RunRow(const Args& args, const Block& block, const void* packed, void*) {
  using F = typename Isa::F;
  const RowBlock<kB> layout(args);
  for (int64_t n = block.n_begin; n < block.n_end; n += kLanes) {
    const int64_t columns = Min(kLanes, block.n_end - n);
    for (int64_t r = 0; r < block.rows; ++r) {
      const char* row = static_cast<const char*>(packed) + r * layout.Bytes();
      F y;
      if (args.segments == 1) {
        y = RowTerm<kB>(layout.body, row, args.b + n * args.b_row, args.b_row, args.b_scale + n, columns);
      } else if constexpr (kB == Codes::kS4) {
        F parts[kSegmentsAtOnce];
        Unroll<kSegmentsAtOnce>([&](auto i) LOWBIT_INLINE {
          // Behind the last channel, the last one again.
          parts[i.value] =
              RowGroups(args, layout.body, row, Min(n + i.value * kChannelsAtOnce, args.n - kChannelsAtOnce));
        });
        y = Isa::SumSegments(parts);
      }
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

template <Codes kB>
int64_t RowPackedBytes(const Args& args, int64_t rows) {
  return rows * RowBlock<kB>(args).Bytes();
}

inline int64_t NoScratch(const Args&, int64_t) { return 64; }

/// s4 groups of one register of weights, or no groups.
template <Codes kB>
bool RowAccepts(const Shape& shape) {
  return shape.rows <= kFewRows && shape.n % kChannelsAtOnce == 0 &&
         (shape.segments == 1 || (kB == Codes::kS4 && shape.segment == 2 * kChunk));
}
