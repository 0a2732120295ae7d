// Exact binary32 arithmetic of ops/formats/README.md on the device: conversions, activations, and one segment's scale.
// Every operation is an intrinsic that rounds once, so no compiler flag can contract or reassociate it.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "ops/common/cuda/types.h"

namespace lowbit::cuda {

__device__ __forceinline__ float Widen(float x) { return x; }
__device__ __forceinline__ float Widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float Widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T Narrow(float x);
template <>
__device__ __forceinline__ float Narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half Narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 Narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// exp as the README writes it, for -86 <= x <= 88: range reduction in two steps, a degree 6 polynomial, exponent
// addition. Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits of the sum. Its product with
// 0.693359375 (nine bits) is exact, so that a fused multiply-add rounds once, as the README's two operations do.
__device__ __forceinline__ float ExpInside(float x) {
  const float shifted = __fadd_rn(__fmul_rn(x, 1.44269502f), 12582912.0f);
  const float n = __fsub_rn(shifted, 12582912.0f);
  const float r = __fsub_rn(__fmaf_rn(-n, 0.693359375f, x), __fmul_rn(n, -2.12194440e-4f));
  float p = 1.0f / 720.0f;
  p = __fadd_rn(__fmul_rn(p, r), 1.0f / 120.0f);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f / 24.0f);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f / 6.0f);
  p = __fadd_rn(__fmul_rn(p, r), 0.5f);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f);
  return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}
// NaN gives some number: whoever calls multiplies or divides the NaN itself as well.
__device__ __forceinline__ float Exp(float x) { return x <= -86.0f ? 0.0f : ExpInside(fminf(x, 88.0f)); }
// 1 + exp(x). The exp of -86 is lost in it as is the README's 0. kBelow88: x is.
template <bool kBelow88>
__device__ __forceinline__ float OnePlusExp(float x) {
  const float above = fmaxf(x, -86.0f);
  return __fadd_rn(1.0f, ExpInside(kBelow88 ? above : fminf(above, 88.0f)));
}

// x / d, correctly rounded, for 1 <= d: what __fdiv_rn does away from the ends of the range, without its branch.
// `safe` becomes false where the result may be another.
__device__ __forceinline__ float DivideInside(float x, float d, bool& safe) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
  r = __fmaf_rn(r, __fmaf_rn(-d, r, 1.0f), r);
  const float q = __fmul_rn(x, r);
  safe = safe && fabsf(x) >= 0x1p-100f && fabsf(x) <= 0x1p100f && d <= 0x1p100f;
  return __fmaf_rn(r, __fmaf_rn(-d, q, x), q);
}

// 1 / x, correctly rounded, for 2^-126 <= x < 2^126: what __frcp_rn does away from the ends of the range.
__device__ __forceinline__ float InverseInside(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return __fmaf_rn(r, __fmaf_rn(-x, r, 1.0f), r);
}
// 1 / sqrt(x), both rounded; away from the ends of the range without the branches of __fsqrt_rn and __frcp_rn.
__device__ __forceinline__ float InverseRoot(float x) {
  if (__float_as_uint(x) - 0x0d800000u >= 0x70800000u) return __frcp_rn(__fsqrt_rn(x));
  float r;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  const float root = __fmul_rn(x, r);
  return InverseInside(__fmaf_rn(__fmaf_rn(-root, root, x), __fmul_rn(r, 0.5f), root));
}

// Ways to divide of an activation below.
struct Divide {
  static constexpr bool kHalf = false;
  __device__ __forceinline__ float operator()(float x, float d) const { return __fdiv_rn(x, d); }
};
struct DivideIfSafe {
  static constexpr bool kHalf = false;
  bool& safe;
  __device__ __forceinline__ float operator()(float x, float d) const { return DivideInside(x, d, safe); }
};
// In activations of float16 values from kLowestHalf on: a quotient from a reciprocal that is off by a unit or two is
// correctly rounded once corrected, of each of these values, as trying them all shows. Of x = -0 it is -0.
struct DivideHalf {
  static constexpr bool kHalf = true;
  __device__ __forceinline__ float operator()(float x, float d) const {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    const float q = __fmul_rn(x, r);
    return __fmaf_rn(-r, __fmaf_rn(d, q, -x), q);
  }
};

// Activations of the README. Each is a function of x and of how to divide, for many values side by side with
// DivideInside and, where that is not safe, with __fdiv_rn.
struct Silu {
  static constexpr float kLowestHalf = -80.0f;
  template <class By>
  __device__ __forceinline__ float operator()(float x, By divide) const {
    return divide(x, OnePlusExp<By::kHalf>(-x));
  }
};
struct GeluTanh {
  static constexpr float kLowestHalf = -9.0f;
  template <class By>
  __device__ __forceinline__ float operator()(float x, By divide) const {
    const float cube = __fmul_rn(__fmul_rn(x, x), x);
    const float u = __fmul_rn(0.7978845608f, __fadd_rn(x, __fmul_rn(0.044715f, cube)));
    return divide(x, OnePlusExp<By::kHalf>(-__fadd_rn(u, u)));
  }
};
struct Gelu {  // Abramowitz and Stegun 7.1.26
  static constexpr float kLowestHalf = -65504.0f;
  template <class By>
  __device__ __forceinline__ float operator()(float x, By divide) const {
    const float z = __fmul_rn(fabsf(x), 0.707106781f);
    const float t = divide(1.0f, __fadd_rn(1.0f, __fmul_rn(0.3275911f, z)));
    float e = __fmul_rn(1.061405429f, t);
    e = __fmul_rn(__fsub_rn(e, 1.453152027f), t);
    e = __fmul_rn(__fadd_rn(e, 1.421413741f), t);
    e = __fmul_rn(__fsub_rn(e, 0.284496736f), t);
    e = __fmul_rn(__fadd_rn(e, 0.254829592f), t);
    e = __fmul_rn(e, Exp(-__fmul_rn(z, z)));
    const float half_e = __fmul_rn(0.5f, e);
    return __fmul_rn(x, x < 0.0f ? half_e : __fsub_rn(1.0f, half_e));
  }
};
struct Relu {
  static constexpr float kLowestHalf = -65504.0f;
  template <class By>
  __device__ __forceinline__ float operator()(float x, By) const {
    return x > 0.0f ? x : (x != x ? x : 0.0f);
  }
};
struct Identity {
  static constexpr float kLowestHalf = -65504.0f;
  template <class By>
  __device__ __forceinline__ float operator()(float x, By) const {
    return x;
  }
};

// Calls fn with the activation: the choice is made once, outside of loops.
template <class Fn>
__device__ __forceinline__ void WithActivation(Activation kind, Fn&& fn) {
  switch (kind) {
    case Activation::kSilu:
      return fn(Silu{});
    case Activation::kGelu:
      return fn(Gelu{});
    case Activation::kGeluTanh:
      return fn(GeluTanh{});
    case Activation::kRelu:
      return fn(Relu{});
    case Activation::kNone:
      return fn(Identity{});
  }
}

// A segment's scale and its reciprocal from the largest magnitude's bit pattern.
struct SegmentScale {
  float scale;
  float inv;  // 0 where every code is 0
};

__device__ __forceinline__ SegmentScale ScaleOf(uint32_t amax_bits, float clip_over_qmax) {
  const float product = __fmul_rn(__uint_as_float(amax_bits), clip_over_qmax);
  if (amax_bits - 0x0d800000u < 0x70800000u) return {product, InverseInside(product)};  // 2^-100 <= amax < 2^126
  const bool bad = amax_bits >= 0x7f800000u, zero = amax_bits < 0x0d800000u;            // not finite; below 2^-100
  const float scale = bad ? __uint_as_float(0x7fc00000u) : zero ? 1.0f : product;
  return {scale, bad || zero ? 0.0f : __frcp_rn(scale)};
}

// The value of a code: a byte, or a weight's nibble in the low bits. A minifloat's bits shifted into a binary16's are
// its value but for a power of two.
__device__ __forceinline__ float CodeValue(Format format, uint32_t code) {
  const auto minifloat = [code](uint32_t sign, int shift, float factor) {
    const uint32_t bits = (code & (sign - 1)) << shift | (code & sign ? 0x8000u : 0);
    return Widen(__ushort_as_half(static_cast<uint16_t>(bits))) * factor;
  };
  switch (format) {
    case Format::kS4:
      return static_cast<float>(static_cast<int>(code << 28) >> 28);
    case Format::kS4E4M3:
      return static_cast<float>(code & 0x80 ? -static_cast<int>(code & 0x7f) : static_cast<int>(code));
    case Format::kE2M1:
      return minifloat(8, 9, 16384.0f);
    case Format::kE3M0:
      return minifloat(8, 10, 4096.0f);
    case Format::kE4M3:
      return (code & 0x7f) == 0x7f ? __uint_as_float(0x7fc00000u) : minifloat(0x80, 7, 256.0f);
    case Format::kE5M2:
      return minifloat(0x80, 8, 1.0f);
    case Format::kBnbFp4: {  // a byte a magnitude, in sixteenths
      const uint32_t table[2] = {0x30200100u, 0xc0806040u};
      const float size = static_cast<float>(table[code >> 2 & 1] >> (code & 3) * 8 & 0xffu) * 0.0625f;
      return code & 8 ? -size : size;
    }
    case Format::kS8:
    case Format::kNone:
      break;
  }
  return static_cast<float>(static_cast<int8_t>(code));
}

}  // namespace lowbit::cuda
