// The end of a product, once for every instruction set. Included inside an unnamed namespace after a struct `Isa` with
// LoadAny and StoreAny: some lanes of the graph type.

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

/// Fetches the lines of y that Finish will write: stores are carried out in order, one late line holds up all others.
template <int64_t kWidth>
void FetchOutput(const Args& args, const Block& block) {
  const int64_t size = args.half ? 2 : 4, bytes = Min(kWidth, block.n_end - block.n_begin) * size;
  const char* y = static_cast<const char*>(args.y) + (block.row * args.n + block.n_begin) * size;
  for (int64_t r = 0; r < block.rows; ++r, y += args.n * size) {
    for (int64_t at = 0; at < bytes; at += 64) asm volatile("prefetchw %0" ::"m"(y[at]));
  }
}

/// sums [row][kWidth] + bias + residual, rounded once to the graph type.
template <int64_t kWidth>
void Finish(const Args& args, const Block& block, const float* sums) {
  const int64_t columns = Min(kWidth, block.n_end - block.n_begin);
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t c = 0; c < columns; c += Isa::kLanes) {
      const int64_t lanes = Min(Isa::kLanes, columns - c), index = (block.row + r) * args.n + block.n_begin + c;
      typename Isa::F y = Isa::LoadF(sums + r * kWidth + c);
      if (args.bias != nullptr) y = Isa::Add(y, Isa::LoadAny(args.bias, block.n_begin + c, lanes, args.half));
      if (args.residual != nullptr) {
        FetchAhead(args.residual, index, kWidth, args.half);
        y = Isa::Add(y, Isa::LoadAny(args.residual, index, lanes, args.half));
      }
      Isa::StoreAny(args.y, index, lanes, args.half, y);
    }
  }
}
