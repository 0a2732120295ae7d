// The second product of a low-rank term, once for every instruction set. Included inside an unnamed namespace after a
// struct `Isa` with vectors of kLanes floats.

constexpr int64_t kLorcRows = 4;  // rows together: eight sums in flight

/// Rows [row, row + kRows) by the two vectors of channels whose factors are in `tile`.
template <int kRows>
void LorcRows(const LorcUp& up, int64_t row, int64_t n, int64_t columns, const float* tile) {
  using F = typename Isa::F;
  constexpr int64_t kLanes = Isa::kLanes;
  const int64_t first = Isa::kLanes < columns ? kLanes : columns, rest = columns - first;
  F sum[kRows][2];
  Unroll<kRows>([&](auto r) LOWBIT_INLINE {
    const int64_t at = (row + r.value) * up.n + n;
    FetchAhead(up.y, at, 2 * kLanes, up.half);
    FetchAhead(up.y, at, 3 * kLanes, up.half);
    sum[r.value][0] = up.residual ? Isa::LoadAny(up.residual, at, first, up.half) : Isa::SetF(0);
    sum[r.value][1] = up.residual ? Isa::LoadAny(up.residual, at + first, rest, up.half) : Isa::SetF(0);
  });
  for (int64_t c = 0; c < up.codes; ++c, tile += 2 * kLanes) {
    const F u0 = Isa::LoadF(tile), u1 = Isa::LoadF(tile + kLanes);
    Unroll<kRows>([&](auto r) LOWBIT_INLINE {
      const F a = Isa::SetF(up.inner[(row + r.value) * up.codes + c]);
      sum[r.value][0] = Isa::MulAdd(a, u0, sum[r.value][0]);
      sum[r.value][1] = Isa::MulAdd(a, u1, sum[r.value][1]);
    });
  }
  Unroll<kRows>([&](auto r) LOWBIT_INLINE {
    const int64_t at = (row + r.value) * up.n + n;
    Isa::StoreAny(up.y, at, first, up.half, sum[r.value][0]);
    Isa::StoreAny(up.y, at + first, rest, up.half, sum[r.value][1]);
  });
}

/// The factors of `columns` channels with their scales, [code][2 * kLanes]; zeros behind them.
inline void FillLorcTile(const LorcUp& up, int64_t n, int64_t columns, float* tile) {
  constexpr int64_t kWidth = 2 * Isa::kLanes;
  float scales[kWidth] = {};
  for (int64_t i = 0; i < columns; ++i) scales[i] = Isa::HalfToFloat(up.up_scale[n + i]);
  for (int64_t c = 0; c < up.codes; c += 4) {
    const int64_t count = up.codes - c < 4 ? up.codes - c : 4;
    uint32_t words[kWidth] = {};
    for (int64_t i = 0; i < columns; ++i) {
      const int8_t* from = up.up + (n + i) * up.codes + c;
      if (count == 4) {
        __builtin_memcpy(&words[i], from, 4);
      } else {
        __builtin_memcpy(&words[i], from, static_cast<size_t>(count));
      }
    }
    for (int64_t half = 0; half < kWidth; half += Isa::kLanes) {
      typename Isa::I word = Isa::LoadI(words + half);
      const typename Isa::F scale = Isa::LoadF(scales + half);
      for (int64_t j = 0; j < count; ++j) {
        Isa::StoreF(tile + (c + j) * kWidth + half, Isa::Mul(Isa::FromS8(word), scale));
        word = Isa::template ShiftRight<8>(word);
      }
    }
  }
}

inline void RunLorcUp(const LorcUp& up, int64_t n_begin, int64_t n_end, float* tile) {
  constexpr int64_t kWidth = 2 * Isa::kLanes;
  for (int64_t n = n_begin; n < n_end; n += kWidth) {
    const int64_t columns = n_end - n < kWidth ? n_end - n : kWidth;
    FillLorcTile(up, n, columns, tile);
    int64_t row = 0;
    for (; row + kLorcRows <= up.rows; row += kLorcRows) LorcRows<kLorcRows>(up, row, n, columns, tile);
    for (; row < up.rows; ++row) LorcRows<1>(up, row, n, columns, tile);
  }
}

constexpr LorcUpKernel kLorcUpKernel{Isa::kNeeds, 2 * Isa::kLanes, RunLorcUp};
