// The algorithm over one vector type V (scalar.cc says what V provides). Included inside an unnamed namespace; includes
// ops/rows/cpu/activations.inl for Exp.
//
// attend() is attention with a running softmax: keys and values are unpacked a block at a time into scratch, every
// query row keeps its maximum, its sum and its weighted values. No score matrix exists beyond one block. After every
// kPartKeys keys these are joined to the result so far and begin anew, so that parts may also come from several tasks.

template <class V>
using Vec = typename V::F;

/// What the keys seen so far give each query row.
struct Sums {
  float* values;  // [rows, D], weighted
  float* top;     // [rows], maximum
  float* total;   // [rows], sum of the weights

  Sums(float* memory, int64_t rows, int64_t dim) : values(memory), top(memory + rows * dim), total(top + rows) {}
};

/// Scratch, laid out for one task.
struct Buffers {
  float* q;       // [rows, D], rotated and scaled
  float* keys;    // [kKeyBlock, D]
  float* values;  // [kKeyBlock, D]
  float* scores;  // [kKeyBlock]
  float* result;  // sums of all parts

  Buffers(const Args& args, int64_t rows, float* scratch) {
    q = scratch;
    keys = q + rows * args.head_dim;
    values = keys + kKeyBlock * args.head_dim;
    scores = values + kKeyBlock * args.head_dim;
    result = scores + kKeyBlock;
  }
  /// The sums of one part, behind the result.
  float* Part(const Args& args, int64_t rows) const { return result + rows * (args.head_dim + 2); }
};

template <class V, class T>
void LoadRow(const T* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += V::kWidth) V::Store(to + i, V::Load(from + i));
}

/// RoPE at a position, in place; one rounding an operation.
template <class V, class T>
void Rotate(const Args& args, int64_t position, float* row) {
  const T* cos = static_cast<const T*>(args.cos) + position * args.pairs;
  const T* sin = static_cast<const T*>(args.sin) + position * args.pairs;
  if (args.rotary == Rotary::kInterleaved) {
    for (int64_t i = 0; i < args.pairs; ++i) {
      const float c = V::One(cos + i), s = V::One(sin + i), a = row[2 * i], b = row[2 * i + 1];
      row[2 * i] = a * c - b * s;
      row[2 * i + 1] = b * c + a * s;
    }
    return;
  }
  float* other = row + args.pairs;
  int64_t i = 0;
  for (; i + V::kWidth <= args.pairs; i += V::kWidth) {
    const Vec<V> c = V::Load(cos + i), s = V::Load(sin + i), a = V::Load(row + i), b = V::Load(other + i);
    V::Store(row + i, V::Sub(V::Mul(a, c), V::Mul(b, s)));
    V::Store(other + i, V::Add(V::Mul(b, c), V::Mul(a, s)));
  }
  for (; i < args.pairs; ++i) {
    const float c = V::One(cos + i), s = V::One(sin + i), a = row[i], b = other[i];
    row[i] = a * c - b * s;
    other[i] = b * c + a * s;
  }
}

inline bool HalfIsFinite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

/// Codes and parameters of one row of `count` floats; overwrites the floats.
template <class V, int kBits>
void QuantizeRow(const Args& args, float* row, uint8_t* codes, uint16_t* params) {
  using F = Vec<V>;
  const int64_t count = args.head_dim;
  constexpr float kLast = (1 << kBits) - 1;
  // The same for every order of the reduction: NaN and infinities are found by their bits.
  uint32_t amax = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, row[i]) & 0x7fffffffu;
    amax = bits > amax ? bits : amax;
  }
  F low = V::Load(row), high = low;
  for (int64_t i = V::kWidth; i < count; i += V::kWidth) {
    low = V::Min(low, V::Load(row + i));
    high = V::Max(high, V::Load(row + i));
  }
  const float lo = V::ReduceMin(low) + 0.f, hi = V::ReduceMax(high) + 0.f;
  const float range = hi - lo;
  const float step = range * (args.clip / kLast);
  uint16_t scale = V::ToHalf(step);
  uint16_t min = V::ToHalf(lo + range * ((1.f - args.clip) / 2.f));
  if (min == 0x8000) min = 0;
  if (amax >= 0x7f800000u || !HalfIsFinite(scale) || !HalfIsFinite(min)) scale = min = 0x7e00;
  params[0] = scale;
  params[1] = min;
  if (scale == 0 || scale == 0x7e00) {
    for (int64_t i = 0; i < args.row_bytes; ++i) codes[i] = 0;
    return;
  }
  const F base = V::Set(V::One(&min)), inverse = V::Set(1.f / V::One(&scale));
  // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits.
  for (int64_t i = 0; i < count; i += V::kWidth) {
    const F t = V::Mul(V::Sub(V::Load(row + i), base), inverse);
    const F bounded = V::Min(V::Set(kLast), V::Max(V::Set(0.f), t));
    V::Store(row + i, V::Add(bounded, V::Set(12582912.f)));
  }
  const auto code = [&](int64_t i) { return static_cast<uint8_t>(__builtin_bit_cast(uint32_t, row[i])); };
  for (int64_t i = 0; i < args.row_bytes; ++i) {
    if constexpr (kBits == 8) {
      codes[i] = code(i);
    } else {
      codes[i] = static_cast<uint8_t>((code(2 * i) & 15) | code(2 * i + 1) << 4);
    }
  }
}

template <class V, class T, int kBits>
void Store(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, float* scratch) {
  const int64_t start = args.Start(b), last = args.lengths[b] - start;
  for (int64_t s = begin; s < end && s < last; ++s) {
    const int64_t from = (b * args.tokens + s) * args.kv_stride + kv_head * args.head_dim;
    const auto write = [&](const void* source, const Cache& cache, bool rotate) {
      const int64_t row = (b * args.kv_heads + kv_head) * cache.rows + start + s;
      LoadRow<V>(static_cast<const T*>(source) + from, args.head_dim, scratch);
      if (rotate) Rotate<V, T>(args, start + s, scratch);
      QuantizeRow<V, kBits>(args, scratch, cache.codes + row * args.row_bytes, cache.params + row * 2);
    };
    write(args.k, args.present_k, args.rotary != Rotary::kNone && !args.rotate_on_read);
    write(args.v, args.present_v, false);
  }
}

/// Unpacks rows [first, first + count) of a head.
template <class V, int kBits>
void Unpack(const Args& args, const Cache& cache, int64_t head_row, int64_t count, float* to) {
  for (int64_t j = 0; j < count; ++j) {
    const uint8_t* codes = cache.codes + (head_row + j) * args.row_bytes;
    const uint16_t* params = cache.params + (head_row + j) * 2;
    const Vec<V> scale = V::Set(V::One(params)), min = V::Set(V::One(params + 1));
    for (int64_t d = 0; d < args.head_dim; d += V::kWidth) {
      V::Store(to + j * args.head_dim + d, V::MulAdd(V::template Codes<kBits>(codes, d), scale, min));
    }
  }
}

/// Scores of one query with the block's keys, whole vectors of them.
template <class V>
void Scores(const float* q, const float* keys, int64_t dim, int64_t begin, int64_t end, float* scores) {
  for (int64_t j = begin / V::kWidth * V::kWidth; j < end; j += V::kWidth) {
    Vec<V> sums[V::kWidth];
    for (int i = 0; i < V::kWidth; ++i) sums[i] = V::Set(0.f);
    for (int64_t d = 0; d < dim; d += V::kWidth) {
      const Vec<V> query = V::Load(q + d);
      for (int i = 0; i < V::kWidth; ++i) sums[i] = V::MulAdd(query, V::Load(keys + (j + i) * dim + d), sums[i]);
    }
    V::Store(scores + j, V::SumEach(sums));
  }
}

template <class V, class T>
void AddMask(const T* mask, int64_t begin, int64_t end, float* scores) {
  int64_t j = begin;
  for (; j + V::kWidth <= end; j += V::kWidth) {
    V::Store(scores + j, V::Add(V::Load(scores + j), V::Load(mask + j)));
  }
  for (; j < end; ++j) scores[j] += V::One(mask + j);
}

/// score -> cap * tanh(score / cap)
template <class V>
void Cap(float cap, int64_t begin, int64_t end, float* scores) {
  const Vec<V> one = V::Set(1.f), two = V::Set(2.f), cap_vector = V::Set(cap);
  for (int64_t j = begin / V::kWidth * V::kWidth; j < end; j += V::kWidth) {
    // tanh(x) = 1 - 2 / (exp(2x) + 1)
    const Vec<V> e = Exp<V>(V::Mul(V::Div(V::Load(scores + j), cap_vector), two));
    V::Store(scores + j, V::Mul(cap_vector, V::Sub(one, V::Div(two, V::Add(e, one)))));
  }
}

/// Turns scores into weights against the new maximum, adds them and the weighted values to the row's sums.
template <class V>
void Accumulate(const Buffers& at, const Sums& part, int64_t row, int64_t dim, int64_t begin, int64_t end) {
  constexpr int64_t kW = V::kWidth;
  const float none = -__builtin_inff();
  const int64_t first = begin / kW * kW, last = (end + kW - 1) / kW * kW;
  for (int64_t j = first; j < begin; ++j) at.scores[j] = none;
  for (int64_t j = end; j < last; ++j) at.scores[j] = none;
  Vec<V> high = V::Set(none);
  for (int64_t j = first; j < last; j += kW) high = V::Max(V::Load(at.scores + j), high);  // a NaN score leaves `high`
  const float old_top = part.top[row], block_top = V::ReduceMax(high);
  const float top = block_top > old_top ? block_top : old_top;
  bool nan = false;
  for (int64_t j = begin; j < end; ++j) nan |= at.scores[j] != at.scores[j];
  if (top == none && !nan) return;  // everything is masked
  // Without any finite score the maximum is arbitrary: the row is NaN.
  const float base = top == none ? 0.f : top;
  Vec<V> weights = V::Set(0.f);
  for (int64_t j = first; j < last; j += kW) {
    const Vec<V> weight = Exp<V>(V::Sub(V::Load(at.scores + j), V::Set(base)));
    V::Store(at.scores + j, weight);
    weights = V::Add(weights, weight);
  }
  alignas(64) float lanes[kW];
  V::Store(lanes, Exp<V>(V::Set(old_top - base)));
  part.top[row] = base;
  part.total[row] = part.total[row] * lanes[0] + V::ReduceAdd(weights);
  const Vec<V> fade = V::Set(lanes[0]);
  float* sums = part.values + row * dim;
  constexpr int kAtOnce = 4;  // vectors of channels kept in registers
  const auto add = [&](int64_t d, auto count) {
    Vec<V> sum[decltype(count)::value];
    for (int i = 0; i < decltype(count)::value; ++i) sum[i] = V::Mul(V::Load(sums + d + i * kW), fade);
    for (int64_t j = begin; j < end; ++j) {
      const Vec<V> weight = V::Set(at.scores[j]);
      const float* value = at.values + j * dim + d;
      for (int i = 0; i < decltype(count)::value; ++i) sum[i] = V::MulAdd(weight, V::Load(value + i * kW), sum[i]);
    }
    for (int i = 0; i < decltype(count)::value; ++i) V::Store(sums + d + i * kW, sum[i]);
  };
  int64_t d = 0;
  for (; d + kAtOnce * kW <= dim; d += kAtOnce * kW) add(d, Count<kAtOnce>{});
  for (; d < dim; d += kW) add(d, Count<1>{});
}

template <class V, class T>
void LoadQueries(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, const Buffers& at) {
  const int64_t group = args.heads / args.kv_heads, dim = args.head_dim;
  const int64_t start = args.Start(b);
  const Vec<V> scale = V::Set(args.scale);
  for (int64_t s = begin; s < end; ++s) {
    const T* from = static_cast<const T*>(args.q) + (b * args.tokens + s) * args.q_stride + kv_head * group * dim;
    for (int64_t g = 0; g < group; ++g) {
      float* q = at.q + ((s - begin) * group + g) * dim;
      LoadRow<V>(from + g * dim, dim, q);
      if (args.rotary != Rotary::kNone) Rotate<V, T>(args, start + s, q);
      for (int64_t d = 0; d < dim; d += V::kWidth) V::Store(q + d, V::Mul(V::Load(q + d), scale));
    }
  }
}

template <class V>
void Clear(const Sums& sums, int64_t rows, int64_t dim) {
  for (int64_t i = 0; i < rows * dim; i += V::kWidth) V::Store(sums.values + i, V::Set(0.f));
  for (int64_t row = 0; row < rows; ++row) {
    sums.top[row] = -__builtin_inff();
    sums.total[row] = 0;
  }
}

/// Adds the sums over further keys.
template <class V>
void Join(const Sums& result, const Sums& part, int64_t rows, int64_t dim) {
  const float none = -__builtin_inff();
  for (int64_t row = 0; row < rows; ++row) {
    if (part.top[row] == none) continue;
    const float top = part.top[row] > result.top[row] ? part.top[row] : result.top[row];
    alignas(64) float old_fade[V::kWidth], new_fade[V::kWidth];
    V::Store(old_fade, Exp<V>(V::Set(result.top[row] - top)));
    V::Store(new_fade, Exp<V>(V::Set(part.top[row] - top)));
    result.top[row] = top;
    result.total[row] = result.total[row] * old_fade[0] + part.total[row] * new_fade[0];
    const Vec<V> old_factor = V::Set(old_fade[0]), new_factor = V::Set(new_fade[0]);
    for (int64_t d = row * dim; d < (row + 1) * dim; d += V::kWidth) {
      const Vec<V> faded = V::Mul(V::Load(result.values + d), old_factor);
      V::Store(result.values + d, V::MulAdd(V::Load(part.values + d), new_factor, faded));
    }
  }
}

template <class V, class T>
void StoreOutput(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, const Sums& result) {
  const int64_t group = args.heads / args.kv_heads, dim = args.head_dim;
  for (int64_t s = begin; s < end; ++s) {
    T* to = static_cast<T*>(args.y) + ((b * args.tokens + s) * args.heads + kv_head * group) * dim;
    const float* sums = result.values + (s - begin) * group * dim;
    for (int64_t g = 0; g < group; ++g) {
      const float total = result.total[(s - begin) * group + g];
      const Vec<V> divisor = V::Set(total == 0 ? 1.f : total);
      for (int64_t d = 0; d < dim; d += V::kWidth) {
        V::Store(to + g * dim + d, V::Div(V::Load(sums + g * dim + d), divisor));
      }
    }
  }
}

/// The keys that new tokens [begin, queries) see, first and one behind the last; `queries` leaves padding out.
struct Seen {
  int64_t queries, first, last;

  Seen(const Args& args, int64_t b, int64_t begin, int64_t end) {
    const int64_t start = args.Start(b), length = args.lengths[b];
    queries = end < length - start ? end : length - start;
    last = args.causal && start + queries < length ? start + queries : length;
    first = args.window > 0 && start + begin >= args.window ? start + begin - args.window + 1 : 0;
    if (begin >= queries) first = last = 0;
  }
};

/// The sums of new tokens [begin, seen.queries) over the keys of one part.
template <class V, class T, int kBits>
void AttendPart(const Args& args, int64_t b, int64_t kv_head, int64_t begin, const Seen& seen, int64_t number,
                const Buffers& at, const Sums& part) {
  const int64_t group = args.heads / args.kv_heads, dim = args.head_dim;
  const int64_t start = args.Start(b), length = args.lengths[b];
  const int64_t head_row = (b * args.kv_heads + kv_head) * args.present_k.rows;
  int64_t block = number * kPartKeys, last_key = block + kPartKeys;
  if (block < seen.first) block = seen.first / kKeyBlock * kKeyBlock;
  if (last_key > seen.last) last_key = seen.last;
  for (; block < last_key; block += kKeyBlock) {
    const int64_t count = last_key - block < kKeyBlock ? last_key - block : kKeyBlock;
    Unpack<V, kBits>(args, args.present_k, head_row + block, count, at.keys);
    Unpack<V, kBits>(args, args.present_v, head_row + block, count, at.values);
    if (args.rotate_on_read) {
      for (int64_t j = 0; j < count; ++j) Rotate<V, T>(args, block + j, at.keys + j * dim);
    }
    for (int64_t s = begin; s < seen.queries; ++s) {
      const int64_t position = start + s;
      const int64_t seen_end = args.causal && position + 1 < length ? position + 1 : length;
      const int64_t seen_begin = args.window > 0 && position >= args.window ? position - args.window + 1 : 0;
      const int64_t from = seen_begin > block ? seen_begin - block : 0;
      const int64_t to = seen_end - block < count ? seen_end - block : count;
      if (from >= to) continue;
      for (int64_t g = 0; g < group; ++g) {
        const int64_t row = (s - begin) * group + g;
        Scores<V>(at.q + row * dim, at.keys, dim, from, to, at.scores);
        if (args.softcap > 0) Cap<V>(args.softcap, from, to, at.scores);
        if (args.mask != nullptr) {
          const int64_t head = kv_head * group + g;
          const int64_t offset = b * args.mask_batch_stride + head * args.mask_head_stride + s * args.mask_row_stride;
          AddMask<V>(static_cast<const T*>(args.mask) + offset + block, from, to, at.scores);
        }
        Accumulate<V>(at, part, row, dim, from, to);
      }
    }
  }
}

template <class V, class T, int kBits>
void Attend(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, float* scratch) {
  const int64_t rows = (end - begin) * args.heads / args.kv_heads, dim = args.head_dim;
  const Buffers at(args, rows, scratch);
  const Sums result(at.result, rows, dim), part(at.Part(args, rows), rows, dim);
  const Seen seen(args, b, begin, end);
  LoadQueries<V, T>(args, b, kv_head, begin, end, at);
  Clear<V>(result, rows, dim);
  for (int64_t number = seen.first / kPartKeys; number * kPartKeys < seen.last; ++number) {
    Clear<V>(part, rows, dim);
    AttendPart<V, T, kBits>(args, b, kv_head, begin, seen, number, at, part);
    Join<V>(result, part, rows, dim);
  }
  StoreOutput<V, T>(args, b, kv_head, begin, end, result);
}

template <class V, class T, int kBits>
void AttendParts(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, int64_t first, int64_t last,
                 float* parts, float* scratch) {
  const int64_t rows = (end - begin) * args.heads / args.kv_heads, dim = args.head_dim;
  const Buffers at(args, rows, scratch);
  const Seen seen(args, b, begin, end);
  LoadQueries<V, T>(args, b, kv_head, begin, end, at);
  for (int64_t number = first; number < last; ++number, parts += rows * (dim + 2)) {
    const Sums part(parts, rows, dim);
    Clear<V>(part, rows, dim);
    AttendPart<V, T, kBits>(args, b, kv_head, begin, seen, number, at, part);
  }
}

template <class V, class T>
void JoinParts(const Args& args, int64_t b, int64_t kv_head, int64_t begin, int64_t end, int64_t count,
               const float* parts, float* scratch) {
  const int64_t rows = (end - begin) * args.heads / args.kv_heads, dim = args.head_dim;
  const Sums result(scratch, rows, dim);
  Clear<V>(result, rows, dim);
  for (int64_t number = 0; number < count; ++number) {
    Join<V>(result, Sums(const_cast<float*>(parts) + number * rows * (dim + 2), rows, dim), rows, dim);
  }
  StoreOutput<V, T>(args, b, kv_head, begin, end, result);
}

/// The kernel records of one architecture.
#define LOWBIT_KV_KERNEL(V, T, half, bits, name, needs) \
  { name, needs, half, bits, Store<V, T, bits>, Attend<V, T, bits>, AttendParts<V, T, bits>, JoinParts<V, T> }
#define LOWBIT_KV_KERNELS(V, arch, needs)                                  \
  {                                                                        \
    LOWBIT_KV_KERNEL(V, float, false, 4, "f32u4_f32__" arch, needs),       \
        LOWBIT_KV_KERNEL(V, float, false, 8, "f32u8_f32__" arch, needs),   \
        LOWBIT_KV_KERNEL(V, uint16_t, true, 4, "f16u4_f16__" arch, needs), \
        LOWBIT_KV_KERNEL(V, uint16_t, true, 8, "f16u8_f16__" arch, needs), \
  }
