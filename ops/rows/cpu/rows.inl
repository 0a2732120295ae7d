// The row pipeline over one vector type V (a struct of static functions, see scalar.cc): load -> float row -> gather ->
// quantize segments. Included by one file per instruction set inside an unnamed namespace, so that no function built
// for a newer CPU can be linked into another file.

// Calls body(k, Whole or Part) over 0 … n - 1.
template <class V, class Body>
inline void ForVectors(int64_t n, const Body& body) {
  int64_t k = 0;
  for (; k + V::kWidth <= n; k += V::kWidth) body(k, Whole{});
  if (k < n) body(k, Part{static_cast<int>(n - k)});
}

#include "ops/rows/cpu/activations.inl"

constexpr int64_t kLanes = 1024;

// Adds neighbours until one value is left; `values` is overwritten.
template <class V>
inline float PairwiseSum(float* values, int count) {
  if constexpr (V::kWidth > 1) {  // as many levels at once as SumEach adds
    constexpr int kBlock = V::kWidth * V::kWidth;
    for (int start = 0; start < count; start += kBlock) {
      typename V::F vectors[V::kWidth];
      for (int i = 0; i < V::kWidth; ++i) {
        const int k = start + i * V::kWidth;
        vectors[i] = k < count ? V::Load(values + k, Whole{}) : V::Set(0.f);
      }
      V::Store(values + start / V::kWidth, V::SumEach(vectors), Whole{});
    }
    count /= V::kWidth;
  }
  for (; count > 1; count /= 2) {
    for (int j = 0; j < count / 2; ++j) values[j] = values[2 * j] + values[2 * j + 1];
  }
  return values[0];
}

// The README's sum of term(0) … term(n - 1): lane j of 1024 adds the terms j, j + 1024, …; then neighbours in pairs.
// A block of kWidth vectors of lanes stays in registers over the whole row and leaves one vector of pair sums.
// term(k, Whole or Part) returns a vector that is 0 beyond a part and is called once for each k.
template <class V, class Term>
inline float LaneSum(int64_t n, const Term& term) {
  constexpr int64_t kBlock = V::kWidth * V::kWidth;
  alignas(64) float partial[kLanes / V::kWidth] = {};
  const int64_t used = n < kLanes ? n : kLanes;
  for (int64_t lane = 0; lane < used; lane += kBlock) {
    typename V::F sums[V::kWidth];
    for (int i = 0; i < V::kWidth; ++i) sums[i] = V::Set(0.f);
    for (int64_t base = lane; base < n; base += kLanes) {
      if (base + kBlock <= n) {
        for (int i = 0; i < V::kWidth; ++i) sums[i] = V::Add(sums[i], term(base + i * V::kWidth, Whole{}));
        continue;
      }
      for (int i = 0; i < V::kWidth; ++i) {
        const int64_t k = base + i * V::kWidth;
        if (k + V::kWidth <= n) {
          sums[i] = V::Add(sums[i], term(k, Whole{}));
        } else if (k < n) {
          sums[i] = V::Add(sums[i], term(k, Part{static_cast<int>(n - k)}));
        }
      }
    }
    V::Store(partial + lane / V::kWidth, V::SumEach(sums), Whole{});
  }
  return PairwiseSum<V>(partial, kLanes / V::kWidth);
}

// Norms.

// The binary32 row that a norm works on, x [+ residual] in the graph type's precision, and the sum output. It is x or
// the sum output itself where that is the same, else it is written to `row`. A pass of its own: LaneSum reads at
// strides of 4096 bytes, and a load waits for an earlier store whose address has the same low 12 bits.
template <class V, class T>
inline const float* NormInput(const RowArgs& args, int64_t m, float* row) {
  const T* x = static_cast<const T*>(args.x) + m * args.x_stride;
  const T* residual = args.other ? static_cast<const T*>(args.other) + m * args.other_stride : nullptr;
  T* sum = args.sum ? static_cast<T*>(args.sum) + m * args.channels : nullptr;
  const float* input = row;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (residual == nullptr && sum == nullptr) return x;
    if (sum != nullptr) input = sum;
  }
  ForVectors<V>(args.channels, [&](int64_t k, auto part) {
    typename V::F value = V::Load(x + k, part);
    if (residual != nullptr) value = V::RoundTo(V::Add(value, V::Load(residual + k, part)), T{});
    if (sum != nullptr) V::Store(sum + k, value, part);
    if (input == row) V::Store(row + k, value, Whole{});
  });
  return input;
}

template <class V, class T>
inline void NormRow(const RowArgs& args, int64_t m, float* row) {
  using F = typename V::F;
  const int64_t n = args.channels;
  const float* input = NormInput<V, T>(args, m, row);
  const float count = static_cast<float>(n);
  const bool layer = args.source == RowSource::kLayer;

  float mean = 0.f;
  float squares;
  if (layer) {
    mean = LaneSum<V>(n, [&](int64_t k, auto part) { return V::Load(input + k, part); }) / count;
    const F centre = V::Set(mean);
    squares = LaneSum<V>(n, [&](int64_t k, auto part) {
      const F centred = V::Keep(V::Sub(V::Load(input + k, part), centre), part);
      return V::Mul(centred, centred);
    });
  } else {
    squares = LaneSum<V>(n, [&](int64_t k, auto part) {
      const F value = V::Load(input + k, part);
      return V::Mul(value, value);
    });
  }
  const F r = V::Set(1.f / V::Root(squares / count + args.epsilon)), centre = V::Set(mean);

  const T* weight = static_cast<const T*>(args.weight);
  const T* bias = static_cast<const T*>(args.bias);
  T* y = args.y ? static_cast<T*>(args.y) + m * n : nullptr;
  ForVectors<V>(n, [&](int64_t k, auto part) {
    F value = V::Load(input + k, part);
    if (layer) value = V::Sub(value, centre);
    value = V::Mul(V::Mul(value, r), V::Load(weight + k, part));
    if (bias != nullptr) value = V::Add(value, V::Load(bias + k, part));
    if (y != nullptr) V::Store(y + k, value, part);
    V::Store(row + k, value, Whole{});
  });
}

// Activations.

template <class V, class T, Activation kActivation>
inline void ActivationRow(const RowArgs& args, int64_t m, float* row) {
  const T* x = static_cast<const T*>(args.x) + m * args.x_stride;
  const T* other = args.other ? static_cast<const T*>(args.other) + m * args.other_stride : nullptr;
  ForVectors<V>(args.channels, [&](int64_t k, auto part) {
    typename V::F value = Activate<V, kActivation>(V::Load(x + k, part));
    if (other != nullptr) value = V::Mul(value, V::Load(other + k, part));
    V::Store(row + k, value, Whole{});
  });
}

template <class V, class T>
inline void ActivationRow(const RowArgs& args, int64_t m, float* row) {
  switch (args.activation) {
    case Activation::kSilu:
      return ActivationRow<V, T, Activation::kSilu>(args, m, row);
    case Activation::kGelu:
      return ActivationRow<V, T, Activation::kGelu>(args, m, row);
    case Activation::kGeluTanh:
      return ActivationRow<V, T, Activation::kGeluTanh>(args, m, row);
    case Activation::kRelu:
      return ActivationRow<V, T, Activation::kRelu>(args, m, row);
  }
}

// Quantization.

// Scalar copies within L1: a vgatherdps of 16 floats takes twice as long as 16 of these (measured on Zen 5). The whole
// row first, because a vector load right behind the narrow stores it covers has to wait for them.
inline void GatherRow(const float* row, const int32_t* index, int64_t n, float* gathered) {
#pragma GCC unroll 8
  for (int64_t k = 0; k < n; ++k) gathered[k] = row[index[k]];
}

// The codes of values that lie in the format's range. Normal ones: binary32 with its mantissa rounded to the format's,
// half to even. Smaller ones: the addition rounds to multiples of the smallest subnormal, half to even.
template <class V>
inline typename V::I MinifloatCodes(typename V::F value, const CodeRange& codes) {
  using I = typename V::I;
  const int shift = 23 - codes.mantissa;
  const typename V::F magnitude = V::Abs(value), unit = V::Set(codes.subnormal_unit);
  const I bits = V::Bits(magnitude);
  const I half = V::AddI(V::SetI((1u << (shift - 1)) - 1), V::AndI(V::ShiftRight(bits, shift), V::SetI(1)));
  const I normal = V::SubI(V::ShiftRight(V::AddI(bits, half), shift), V::SetI(codes.exponent_offset));
  const I small = V::SubI(V::Bits(V::Add(magnitude, unit)), V::Bits(unit));
  const uint32_t smallest_normal = (codes.exponent_offset + (1u << codes.mantissa)) << shift;
  const auto is_small = V::Less(magnitude, V::Set(__builtin_bit_cast(float, smallest_normal)));
  const I sign = V::AndI(V::ShiftRight(V::Bits(value), 24), V::SetI(0x80));
  return V::AddI(V::SelectI(is_small, small, normal), sign);
}

// Writes the codes of n values and returns their scale.
template <class V>
inline float QuantizeSegment(const float* values, int64_t n, const CodeRange& codes, int8_t* q) {
  typename V::I largest = V::ZeroBits();
  ForVectors<V>(n, [&](int64_t k, auto part) { largest = V::MaxMagnitude(largest, V::Load(values + k, part)); });
  const uint32_t amax_bits = V::LargestOf(largest);
  constexpr uint32_t kInfinityBits = 0x7f800000u, kSmallestAmaxBits = 27u << 23;  // 2^-100
  if (amax_bits >= kInfinityBits || amax_bits < kSmallestAmaxBits) {
    for (int64_t k = 0; k < n; ++k) q[k] = 0;
    return amax_bits >= kInfinityBits ? __builtin_nanf("") : 1.f;
  }
  float amax;
  __builtin_memcpy(&amax, &amax_bits, sizeof amax);
  const float scale = amax * codes.clip_over_qmax;
  const typename V::F inverse = V::Set(1.f / scale), low = V::Set(codes.min), high = V::Set(codes.max);
  if (codes.mantissa > 0) {
    ForVectors<V>(n, [&](int64_t k, auto part) {
      const typename V::F value = V::Mul(V::Load(values + k, part), inverse);
      V::StoreBytes(q + k, MinifloatCodes<V>(V::Max(low, V::Min(high, value)), codes), part);
    });
    return scale;
  }
  ForVectors<V>(n, [&](int64_t k, auto part) {
    // Clamping to integers before rounding is the same as after it, and keeps the conversion in range.
    const typename V::F value = V::Mul(V::Load(values + k, part), inverse);
    V::StoreCodes(q + k, V::Max(low, V::Min(high, value)), part);
  });
  return scale;
}

// Two's complement codes to sign and magnitude, in place.
inline void ToSignMagnitude(int8_t* q, int64_t n) {
  for (int64_t k = 0; k < n; ++k) q[k] = static_cast<int8_t>(q[k] < 0 ? 0x80 | -q[k] : q[k]);
}

template <class V>
inline void QuantizeRow(const RowArgs& args, int64_t m, const float* row, float* gathered) {
  if (args.reorder_index != nullptr) {
    GatherRow(row, args.reorder_index, args.channels, gathered);
    row = gathered;
  }
  int8_t* q = args.q + m * args.channels;
  float* scale = args.scale + m * args.segments;
  for (int64_t start = 0; start < args.body; start += args.group) {
    *scale++ = QuantizeSegment<V>(row + start, args.group, args.body_codes, q + start);
  }
  if (args.body_codes.sign_magnitude) ToSignMagnitude(q, args.body);
  if (args.body < args.channels) {
    constexpr CodeRange kOutlierCodes{-128.f, 127.f, 1.f / 127.f};
    *scale = QuantizeSegment<V>(row + args.body, args.channels - args.body, kOutlierCodes, q + args.body);
  }
}

// The floats of row m of x: in place if they are float32, else widened into `row`.
template <class V, class T>
inline const float* CopyRow(const RowArgs& args, int64_t m, float* row) {
  const T* x = static_cast<const T*>(args.x) + m * args.x_stride;
  if constexpr (sizeof(T) == sizeof(float)) {
    return x;
  } else {
    ForVectors<V>(args.channels, [&](int64_t k, auto part) { V::Store(row + k, V::Load(x + k, part), Whole{}); });
    return row;
  }
}

template <class V, class T>
void RunRows(const RowArgs& args, int64_t begin, int64_t end, float* scratch) noexcept {
  float* gathered = scratch + RowScratchFloats(args.channels) / 2;
  for (int64_t m = begin; m < end; ++m) {
    const float* row = scratch;
    switch (args.source) {
      case RowSource::kCopy:
        row = CopyRow<V, T>(args, m, scratch);
        break;
      case RowSource::kRms:
      case RowSource::kLayer:
        NormRow<V, T>(args, m, scratch);
        break;
      case RowSource::kActivation:
      case RowSource::kGated:
        ActivationRow<V, T>(args, m, scratch);
        break;
    }
    QuantizeRow<V>(args, m, row, gathered);
  }
}
