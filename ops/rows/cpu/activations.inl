// The activations of ops/formats/README.md over one vector type V, one rounding per written operation.
// Included by rows.inl inside an unnamed namespace.

template <class V>
typename V::F Exp(typename V::F x) {
  using F = typename V::F;
  // The operand order of Min and Max lets NaN through.
  const F bounded = V::Max(V::Set(-86.f), V::Min(V::Set(88.f), x));
  // 1.5 * 2^23 + n: the sum's last place is 1, so it rounds half to even, and its low bits are the integer n.
  const F magic = V::Set(12582912.f);
  const F shifted = V::Add(V::Mul(bounded, V::Set(1.44269502f)), magic);
  const F n = V::Sub(shifted, magic);
  const F high = V::Sub(bounded, V::Mul(n, V::Set(0.693359375f)));
  const F r = V::Sub(high, V::Mul(n, V::Set(-2.12194440e-4f)));
  F p = V::Set(1.f / 720.f);
  p = V::Add(V::Mul(p, r), V::Set(1.f / 120.f));
  p = V::Add(V::Mul(p, r), V::Set(1.f / 24.f));
  p = V::Add(V::Mul(p, r), V::Set(1.f / 6.f));
  p = V::Add(V::Mul(p, r), V::Set(0.5f));
  p = V::Add(V::Mul(p, r), V::Set(1.f));
  p = V::Add(V::Mul(p, r), V::Set(1.f));
  return V::Select(V::LessEqual(x, V::Set(-86.f)), V::Set(0.f), V::AddExponent(p, shifted));
}

// x / (1 + exp(-exponent))
template <class V>
typename V::F SigmoidTimes(typename V::F x, typename V::F exponent) {
  return V::Div(x, V::Add(V::Set(1.f), Exp<V>(V::Negate(exponent))));
}

template <class V>
typename V::F GeluTanh(typename V::F x) {
  using F = typename V::F;
  const F cube = V::Mul(V::Mul(x, x), x);
  const F u = V::Mul(V::Set(0.7978845608f), V::Add(x, V::Mul(V::Set(0.044715f), cube)));
  return SigmoidTimes<V>(x, V::Add(u, u));
}

template <class V>
typename V::F Gelu(typename V::F x) {
  using F = typename V::F;
  const F one = V::Set(1.f);
  const F z = V::Mul(V::Abs(x), V::Set(0.707106781f));
  const F t = V::Div(one, V::Add(one, V::Mul(V::Set(0.3275911f), z)));
  F e = V::Set(1.061405429f);
  e = V::Add(V::Mul(e, t), V::Set(-1.453152027f));
  e = V::Add(V::Mul(e, t), V::Set(1.421413741f));
  e = V::Add(V::Mul(e, t), V::Set(-0.284496736f));
  e = V::Add(V::Mul(e, t), V::Set(0.254829592f));
  e = V::Mul(V::Mul(e, t), Exp<V>(V::Negate(V::Mul(z, z))));
  const F half = V::Mul(V::Set(0.5f), e);
  return V::Mul(x, V::Select(V::Less(x, V::Set(0.f)), half, V::Sub(one, half)));
}

template <class V, Activation kActivation>
typename V::F Activate(typename V::F x) {
  if constexpr (kActivation == Activation::kSilu) return SigmoidTimes<V>(x, x);
  if constexpr (kActivation == Activation::kGelu) return Gelu<V>(x);
  if constexpr (kActivation == Activation::kGeluTanh) return GeluTanh<V>(x);
  if constexpr (kActivation == Activation::kRelu) {
    // This order keeps NaN, and -0, which the sum makes +0.
    return V::Add(V::Max(V::Set(0.f), x), V::Set(0.f));
  }
}
