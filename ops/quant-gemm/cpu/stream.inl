// A few rows times the weights, once for every instruction set. Included after panel.inl, whose packed activations it
// uses.
//
// With few rows a tile in L1 would cost more than it saves: each register of unpacked weights is multiplied with all
// rows on the spot. kLanes output channels at a time, one column of accumulators for each row.

/// The weight rows of kLanes output channels.
struct Stream {
  const uint8_t* b;
  int64_t row_bytes, columns;

  /// What to fetch while byte `at` of the rows is used: the next kLanes rows, from front to back, as memory likes it
  /// best.
  const uint8_t* Ahead(int64_t at) const { return b + kLanes * (row_bytes + at); }
};

/// Sums of few rows are spread over several accumulators: a product can only be added when the previous one has
/// arrived.
template <int kR>
constexpr int kChains = kR >= 8   ? 1
                        : kR >= 4 ? 2
                        : kR >= 2 ? 4
                                  : 8;

/// acc[r] (all chains together) += the sums of `bytes` bytes of every weight row from byte `begin` on; `a` is their
/// packed activations.
template <Codes kB, int kR>
LOWBIT_INLINE inline void StreamBytes(typename Isa::I (&acc)[kR][kChains<kR>], const Stream& stream, int64_t begin,
                                      int64_t bytes, const int8_t* a) {
  for (int64_t at = 0; at < bytes; at += kChunk) {
    const uint8_t *from = stream.b + begin + at, *ahead = stream.Ahead(begin + at);
    const bool full = at + kChunk <= bytes && stream.columns >= kLanes;
    typename Isa::I words[kLanes];
    if (full) {
      Unroll<kLanes>([&](auto i) LOWBIT_INLINE {
        Isa::Prefetch(ahead + i.value * kChunk);
        words[i.value] = Isa::LoadBytes(from);
        from += stream.row_bytes;
      });
    } else {
      Unroll<kLanes>([&](auto i) LOWBIT_INLINE {
        words[i.value] = Isa::LoadBytes(from, i.value < stream.columns ? Min(kChunk, bytes - at) : 0);
        from += stream.row_bytes;
      });
    }
    Isa::Transpose(words);
    const int64_t count = (Min(kChunk, bytes - at) + 3) / 4;
    Unroll<kLanes>([&](auto i) LOWBIT_INLINE {
      if (full || i.value < count) {
        Isa::template ForQuads<kB>(words[i.value], [&](auto q, typename Isa::I quad) LOWBIT_INLINE {
          constexpr int kChain = (i.value * 2 + q.value) % kChains<kR>;
          Unroll<kR>([&](auto r) LOWBIT_INLINE {
            acc[r.value][kChain] = Isa::template DotQuad<kB>(acc[r.value][kChain], quad, a + r.value * 4);
          });
          a += kR * 4;
        });
      }
    });
  }
}

/// Adds the scaled sums of one segment to `sums`, [row][kLanes].
template <Codes kB, int kR>
void StreamSegment(const Stream& stream, int64_t begin, int64_t bytes, const int8_t* a, const int32_t* start,
                   const float* a_scale, int64_t a_scale_row, const float* b_scale, float* sums) {
  typename Isa::I acc[kR][kChains<kR>];
  Unroll<kR>([&](auto r) LOWBIT_INLINE {
    acc[r.value][0] = Isa::SetI(start[r.value]);
    Unroll<kChains<kR> - 1>([&](auto c) LOWBIT_INLINE { acc[r.value][c.value + 1] = Isa::SetI(0); });
  });
  StreamBytes<kB, kR>(acc, stream, begin, bytes, a);
  const typename Isa::F scale = Isa::LoadF(b_scale);
  Unroll<kR>([&](auto r) LOWBIT_INLINE {
    Unroll<kChains<kR> - 1>(
        [&](auto c) LOWBIT_INLINE { acc[r.value][0] = Isa::AddI(acc[r.value][0], acc[r.value][c.value + 1]); });
    float* out = sums + r.value * kLanes;
    const typename Isa::F term = Isa::Mul(Isa::ToFloat(acc[r.value][0]), scale);
    Isa::StoreF(out, Isa::MulAdd(term, Isa::SetF(a_scale[r.value * a_scale_row]), Isa::LoadF(out)));
  });
}

template <Codes kB, int kR>
void StreamColumns(const Args& args, const Block& block, const PackedLayout<kB>& layout, const char* packed,
                   float* scales) {
  alignas(64) float sums[kR * kLanes] = {};
  const int8_t* a = reinterpret_cast<const int8_t*>(packed);
  const int32_t* start = reinterpret_cast<const int32_t*>(packed + layout.start_offset);
  const float* a_scale = args.a_scale + block.row * args.a_scale_row;
  const int64_t n = block.n_begin, columns = block.n_end - n;

  const Stream body{args.b + n * args.b_row, args.b_row, columns};
  const int64_t bytes = args.segments == 1 ? args.b_row : args.segment / (kB == Codes::kS4 ? 2 : 1);
  Isa::FillScales(scales, kLanes, args.b_scale + n * args.b_scale_row, args.b_scale_row, args.b_scale_row, columns);
  for (int64_t s = 0; s < args.segments; ++s) {
    StreamSegment<kB, kR>(body, s * bytes, bytes, a + s * Quads<kB>(args.segment) * 4 * kR, start + s * kR,
                          a_scale + s * args.a_scale_step, args.a_scale_row, scales + s * args.b_scale_step * kLanes,
                          sums);
  }
  if (args.outliers > 0) {
    const Stream outliers{reinterpret_cast<const uint8_t*>(args.b_outlier) + n * args.outliers, args.outliers, columns};
    Isa::FillScales(scales, kLanes, args.b_outlier_scale + n, 1, 1, columns);
    StreamSegment<Codes::kS8, kR>(outliers, 0, args.outliers, a + layout.body_quads * 4 * kR,
                                  start + args.segments * kR, a_scale + args.a_scale_row - 1, args.a_scale_row, scales,
                                  sums);
  }
  Finish<kLanes>(args, block, sums);
}

template <Codes kB>
void RunStream(const Args& args, const Block& block, const void* packed, void* scratch) {
  const PackedLayout<kB> layout(args, block.rows, false);
  WithRows<kFewRows>(block.rows, [&]<int kR>(Rows<kR>) {
    for (int64_t n = block.n_begin; n < block.n_end; n += kLanes) {
      const Block columns{block.row, block.rows, n, Min(n + kLanes, block.n_end)};
      StreamColumns<kB, kR>(args, columns, layout, static_cast<const char*>(packed), static_cast<float*>(scratch));
    }
  });
}

inline int64_t StreamScratchBytes(const Args& args, int64_t) { return AlignUp((args.segments + 1) * kLanes * 4); }

/// A register of weight bytes is unpacked at once, so short segments waste most of the work.
template <Codes kB>
bool StreamAccepts(const Shape& shape) {
  return shape.rows <= kFewRows && shape.segment >= (kB == Codes::kS4 ? kChunk : kChunk / 2);
}
