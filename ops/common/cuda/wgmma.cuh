// Hopper's wgmma on 8-bit operands, d (+)= A . B over 32 channels: 64 rows of A in registers or shared memory, 64 or
// 128 columns of B in shared memory. Floats are e4m3 in A and e4m3 or e5m2 in B, summed in binary32 registers (the
// hardware keeps about 14 bits of them); integers are int8 on both sides. Fences, commits and descriptors are in
// ptx.cuh.
#pragma once
#include <cstdint>

namespace lowbit::cuda {

#define LOWBIT_LIST32                                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LOWBIT_LIST64                                                                                                \
  LOWBIT_LIST32                                                                                                      \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LOWBIT_OUT8(c, d, i) \
  c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3]), c(d[i + 4]), c(d[i + 5]), c(d[i + 6]), c(d[i + 7])
#define LOWBIT_OUT32(c, d, i) \
  LOWBIT_OUT8(c, d, i), LOWBIT_OUT8(c, d, i + 8), LOWBIT_OUT8(c, d, i + 16), LOWBIT_OUT8(c, d, i + 24)
#define LOWBIT_OUT64(c, d, i) LOWBIT_OUT32(c, d, i), LOWBIT_OUT32(c, d, i + 32)

// One overload a size: `shape` and `types` as in PTX, `tail` the operands behind the predicate.
#define LOWBIT_WGMMA_REGISTERS(name, element, count, constraint, list, outs, shape, types, tail, n0, n1, n2, n3, n4, \
                               n5)                                                                                   \
  __device__ __forceinline__ void name(element(&d)[count], const uint32_t(&a)[4], uint64_t b, int accumulate) {      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " n5 ", 0;\nwgmma.mma_async.sync.aligned." shape "." types        \
                 " {" list "}, {" n0 ", " n1 ", " n2 ", " n3 "}, " n4 ", p" tail ";\n}"                              \
                 : outs(constraint, d, 0)                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                             \
  }
#define LOWBIT_WGMMA_SHARED(name, element, count, constraint, list, outs, shape, types, tail, n0, n1, n2)     \
  __device__ __forceinline__ void name(element(&d)[count], uint64_t a, uint64_t b, int accumulate) {          \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " n2 ", 0;\nwgmma.mma_async.sync.aligned." shape "." types \
                 " {" list "}, " n0 ", " n1 ", p" tail ";\n}"                                                 \
                 : outs(constraint, d, 0)                                                                     \
                 : "l"(a), "l"(b), "r"(accumulate));                                                          \
  }
#define LOWBIT_WGMMA_FLOATS(name, types)                                                                               \
  LOWBIT_WGMMA_REGISTERS(name, float, 64, "+f", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k32", types, ", 1, 1", "%64",     \
                         "%65", "%66", "%67", "%68", "%69")                                                            \
  LOWBIT_WGMMA_REGISTERS(name, float, 32, "+f", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k32", types, ", 1, 1", "%32",      \
                         "%33", "%34", "%35", "%36", "%37")                                                            \
  LOWBIT_WGMMA_SHARED(name, float, 64, "+f", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k32", types, ", 1, 1", "%64", "%65", \
                      "%66")                                                                                           \
  LOWBIT_WGMMA_SHARED(name, float, 32, "+f", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k32", types, ", 1, 1", "%32", "%33",  \
                      "%34")

LOWBIT_WGMMA_FLOATS(WgmmaE4M3, "f32.e4m3.e4m3")
LOWBIT_WGMMA_FLOATS(WgmmaE4M3E5M2, "f32.e4m3.e5m2")
LOWBIT_WGMMA_SHARED(WgmmaS8, int, 64, "+r", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k32", "s32.s8.s8", "", "%64", "%65",
                    "%66")
LOWBIT_WGMMA_SHARED(WgmmaS8, int, 32, "+r", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k32", "s32.s8.s8", "", "%32", "%33",
                    "%34")

// Behind a wait: keeps the compiler from using sums before it. It would then wait after every wgmma (C7514).
template <class T, int kCount>
__device__ __forceinline__ void SumsAreReady(T (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (sizeof(T) == sizeof(float) && static_cast<T>(0.5f) != T{}) {
      asm volatile("" : "+f"(d[i])::"memory");
    } else {
      asm volatile("" : "+r"(d[i])::"memory");
    }
  }
}

#undef LOWBIT_WGMMA_FLOATS
#undef LOWBIT_WGMMA_SHARED
#undef LOWBIT_WGMMA_REGISTERS
#undef LOWBIT_OUT64
#undef LOWBIT_OUT32
#undef LOWBIT_OUT8
#undef LOWBIT_LIST64
#undef LOWBIT_LIST32

}  // namespace lowbit::cuda
