// Scales of a tile's columns, once for every instruction set. Included inside an unnamed namespace after a struct `Isa`
// of vectors and kCols.

/// float16 [column][count], columns `row` apart -> float [count][kCols]; absent columns get 0. The next columns' are
/// fetched.
inline void FillScales(float* scales, const uint16_t* from, int64_t row, int64_t count, int64_t columns) {
  for (int64_t g = 0; g < count; g += Isa::kLanes) {
    const int64_t groups = Min(Isa::kLanes, count - g);
    for (int64_t half = 0; half < kCols; half += Isa::kLanes) {
      typename Isa::I rows[Isa::kLanes];
      Unroll<Isa::kLanes>([&](auto i) LOWBIT_INLINE {
        const int64_t column = half + i.value, at = column * row + g;
        Isa::Prefetch(from + at + kCols * row);
        rows[i.value] = Isa::Bits(Isa::LoadAny(from, column < columns ? at : 0, column < columns ? groups : 0, true));
      });
      Isa::Transpose(rows);
      float* to = scales + g * kCols + half;
      Unroll<Isa::kLanes>([&](auto i) LOWBIT_INLINE {
        if (i.value < groups) Isa::StoreI(to + i.value * kCols, rows[i.value]);
      });
    }
  }
}
