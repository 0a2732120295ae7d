// Hopper's wgmma, d (+)= A . B: 64 rows of A in registers or shared memory, 8 to 256 columns of B in shared memory,
// sums in 32 bits. Fences, commits and descriptors are in ptx.cuh.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace lowbit::cuda {

#define LOWBIT_LIST4 "%0, %1, %2, %3"
#define LOWBIT_LIST8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define LOWBIT_LIST16 LOWBIT_LIST8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define LOWBIT_LIST32 LOWBIT_LIST16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LOWBIT_LIST64                                                                                           \
  LOWBIT_LIST32                                                                                                 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LOWBIT_LIST88                                                                                           \
  LOWBIT_LIST64                                                                                                 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, " \
  "%85, %86, %87"
#define LOWBIT_LIST120                                                                                             \
  LOWBIT_LIST88                                                                                                    \
  ", %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, " \
  "%108, "                                                                                                         \
  "%109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119"
#define LOWBIT_LIST128                                                                                           \
  LOWBIT_LIST64                                                                                                  \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, "  \
  "%85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "    \
  "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, " \
  "%123, %124, %125, %126, %127"
#define LOWBIT_OUT4(c, d, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define LOWBIT_OUT8(c, d, i) \
  c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3]), c(d[i + 4]), c(d[i + 5]), c(d[i + 6]), c(d[i + 7])
#define LOWBIT_OUT16(c, d, i) LOWBIT_OUT8(c, d, i), LOWBIT_OUT8(c, d, i + 8)
#define LOWBIT_OUT32(c, d, i) LOWBIT_OUT16(c, d, i), LOWBIT_OUT16(c, d, i + 16)
#define LOWBIT_OUT64(c, d, i) LOWBIT_OUT32(c, d, i), LOWBIT_OUT32(c, d, i + 32)
#define LOWBIT_OUT88(c, d, i) LOWBIT_OUT64(c, d, i), LOWBIT_OUT16(c, d, i + 64), LOWBIT_OUT8(c, d, i + 80)
#define LOWBIT_OUT120(c, d, i) LOWBIT_OUT88(c, d, i), LOWBIT_OUT32(c, d, i + 88)
#define LOWBIT_OUT128(c, d, i) LOWBIT_OUT64(c, d, i), LOWBIT_OUT64(c, d, i + 64)

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
  LOWBIT_WGMMA_REGISTERS(name, float, 128, "+f", LOWBIT_LIST128, LOWBIT_OUT128, "m64n256k32", types, ", 1, 1", "%128", \
                         "%129", "%130", "%131", "%132", "%133")                                                       \
  LOWBIT_WGMMA_REGISTERS(name, float, 64, "+f", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k32", types, ", 1, 1", "%64",     \
                         "%65", "%66", "%67", "%68", "%69")                                                            \
  LOWBIT_WGMMA_REGISTERS(name, float, 32, "+f", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k32", types, ", 1, 1", "%32",      \
                         "%33", "%34", "%35", "%36", "%37")                                                            \
  LOWBIT_WGMMA_SHARED(name, float, 64, "+f", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k32", types, ", 1, 1", "%64", "%65", \
                      "%66")                                                                                           \
  LOWBIT_WGMMA_SHARED(name, float, 32, "+f", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k32", types, ", 1, 1", "%32", "%33",  \
                      "%34")

// e4m3 in A, e4m3 or e5m2 in B, 32 channels; the hardware keeps about 14 bits of these sums.
LOWBIT_WGMMA_FLOATS(WgmmaE4M3, "f32.e4m3.e4m3")
LOWBIT_WGMMA_FLOATS(WgmmaE4M3E5M2, "f32.e4m3.e5m2")

// int8 on both sides, 32 channels.
LOWBIT_WGMMA_SHARED(WgmmaS8, int, 128, "+r", LOWBIT_LIST128, LOWBIT_OUT128, "m64n256k32", "s32.s8.s8", "", "%128",
                    "%129", "%130")
LOWBIT_WGMMA_SHARED(WgmmaS8, int, 88, "+r", LOWBIT_LIST88, LOWBIT_OUT88, "m64n176k32", "s32.s8.s8", "", "%88", "%89",
                    "%90")
LOWBIT_WGMMA_SHARED(WgmmaS8, int, 64, "+r", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k32", "s32.s8.s8", "", "%64", "%65",
                    "%66")
LOWBIT_WGMMA_SHARED(WgmmaS8, int, 32, "+r", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k32", "s32.s8.s8", "", "%32", "%33",
                    "%34")
LOWBIT_WGMMA_REGISTERS(WgmmaS8, int, 64, "+r", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k32", "s32.s8.s8", "", "%64", "%65",
                       "%66", "%67", "%68", "%69")

// Few columns of B, 32 channels, A from either place.
#define LOWBIT_WGMMA_FEW(name, element, constraint, types, tail)                                                       \
  LOWBIT_WGMMA_REGISTERS(name, element, 4, constraint, LOWBIT_LIST4, LOWBIT_OUT4, "m64n8k32", types, tail, "%4", "%5", \
                         "%6", "%7", "%8", "%9")                                                                       \
  LOWBIT_WGMMA_REGISTERS(name, element, 8, constraint, LOWBIT_LIST8, LOWBIT_OUT8, "m64n16k32", types, tail, "%8",      \
                         "%9", "%10", "%11", "%12", "%13")                                                             \
  LOWBIT_WGMMA_REGISTERS(name, element, 16, constraint, LOWBIT_LIST16, LOWBIT_OUT16, "m64n32k32", types, tail, "%16",  \
                         "%17", "%18", "%19", "%20", "%21")                                                            \
  LOWBIT_WGMMA_SHARED(name, element, 4, constraint, LOWBIT_LIST4, LOWBIT_OUT4, "m64n8k32", types, tail, "%4", "%5",    \
                      "%6")                                                                                            \
  LOWBIT_WGMMA_SHARED(name, element, 8, constraint, LOWBIT_LIST8, LOWBIT_OUT8, "m64n16k32", types, tail, "%8", "%9",   \
                      "%10")                                                                                           \
  LOWBIT_WGMMA_SHARED(name, element, 16, constraint, LOWBIT_LIST16, LOWBIT_OUT16, "m64n32k32", types, tail, "%16",     \
                      "%17", "%18")
LOWBIT_WGMMA_FEW(WgmmaS8, int, "+r", "s32.s8.s8", "")
LOWBIT_WGMMA_FEW(WgmmaE4M3, float, "+f", "f32.e4m3.e4m3", ", 1, 1")
LOWBIT_WGMMA_FEW(WgmmaE4M3E5M2, float, "+f", "f32.e4m3.e5m2", ", 1, 1")
LOWBIT_WGMMA_REGISTERS(WgmmaS8, int, 32, "+r", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k32", "s32.s8.s8", "", "%32", "%33",
                       "%34", "%35", "%36", "%37")

// 16-bit floats, 16 channels, the rows of B side by side along its channels.
LOWBIT_WGMMA_REGISTERS(WgmmaF16, float, 128, "+f", LOWBIT_LIST128, LOWBIT_OUT128, "m64n256k16", "f32.f16.f16",
                       ", 1, 1, 0", "%128", "%129", "%130", "%131", "%132", "%133")
LOWBIT_WGMMA_REGISTERS(WgmmaBF16, float, 128, "+f", LOWBIT_LIST128, LOWBIT_OUT128, "m64n256k16", "f32.bf16.bf16",
                       ", 1, 1, 0", "%128", "%129", "%130", "%131", "%132", "%133")
LOWBIT_WGMMA_REGISTERS(WgmmaF16, float, 120, "+f", LOWBIT_LIST120, LOWBIT_OUT120, "m64n240k16", "f32.f16.f16",
                       ", 1, 1, 0", "%120", "%121", "%122", "%123", "%124", "%125")
LOWBIT_WGMMA_REGISTERS(WgmmaBF16, float, 120, "+f", LOWBIT_LIST120, LOWBIT_OUT120, "m64n240k16", "f32.bf16.bf16",
                       ", 1, 1, 0", "%120", "%121", "%122", "%123", "%124", "%125")
LOWBIT_WGMMA_REGISTERS(WgmmaF16, float, 88, "+f", LOWBIT_LIST88, LOWBIT_OUT88, "m64n176k16", "f32.f16.f16", ", 1, 1, 0",
                       "%88", "%89", "%90", "%91", "%92", "%93")
LOWBIT_WGMMA_REGISTERS(WgmmaBF16, float, 88, "+f", LOWBIT_LIST88, LOWBIT_OUT88, "m64n176k16", "f32.bf16.bf16",
                       ", 1, 1, 0", "%88", "%89", "%90", "%91", "%92", "%93")
LOWBIT_WGMMA_REGISTERS(WgmmaF16, float, 64, "+f", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k16", "f32.f16.f16", ", 1, 1, 0",
                       "%64", "%65", "%66", "%67", "%68", "%69")
LOWBIT_WGMMA_REGISTERS(WgmmaF16, float, 32, "+f", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k16", "f32.f16.f16", ", 1, 1, 0",
                       "%32", "%33", "%34", "%35", "%36", "%37")
LOWBIT_WGMMA_REGISTERS(WgmmaBF16, float, 64, "+f", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k16", "f32.bf16.bf16",
                       ", 1, 1, 0", "%64", "%65", "%66", "%67", "%68", "%69")
LOWBIT_WGMMA_REGISTERS(WgmmaBF16, float, 32, "+f", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k16", "f32.bf16.bf16",
                       ", 1, 1, 0", "%32", "%33", "%34", "%35", "%36", "%37")
#define LOWBIT_WGMMA_FEW_HALVES(name, types)                                                                           \
  LOWBIT_WGMMA_REGISTERS(name, float, 4, "+f", LOWBIT_LIST4, LOWBIT_OUT4, "m64n8k16", types, ", 1, 1, 0", "%4", "%5",  \
                         "%6", "%7", "%8", "%9")                                                                       \
  LOWBIT_WGMMA_REGISTERS(name, float, 8, "+f", LOWBIT_LIST8, LOWBIT_OUT8, "m64n16k16", types, ", 1, 1, 0", "%8", "%9", \
                         "%10", "%11", "%12", "%13")                                                                   \
  LOWBIT_WGMMA_REGISTERS(name, float, 16, "+f", LOWBIT_LIST16, LOWBIT_OUT16, "m64n32k16", types, ", 1, 1, 0", "%16",   \
                         "%17", "%18", "%19", "%20", "%21")
LOWBIT_WGMMA_FEW_HALVES(WgmmaF16, "f32.f16.f16")
LOWBIT_WGMMA_FEW_HALVES(WgmmaBF16, "f32.bf16.bf16")
LOWBIT_WGMMA_SHARED(WgmmaF16, float, 64, "+f", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k16", "f32.f16.f16", ", 1, 1, 0, 0",
                    "%64", "%65", "%66")
LOWBIT_WGMMA_SHARED(WgmmaF16, float, 32, "+f", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k16", "f32.f16.f16", ", 1, 1, 0, 0",
                    "%32", "%33", "%34")

// The same by type.
template <int kCount>
__device__ __forceinline__ void WgmmaHalf(__half, float (&d)[kCount], const uint32_t (&a)[4], uint64_t b,
                                          int accumulate) {
  WgmmaF16(d, a, b, accumulate);
}
template <int kCount>
__device__ __forceinline__ void WgmmaHalf(__nv_bfloat16, float (&d)[kCount], const uint32_t (&a)[4], uint64_t b,
                                          int accumulate) {
  WgmmaBF16(d, a, b, accumulate);
}

// float16, with the channels of B side by side: its 16 rows are what is summed over.
LOWBIT_WGMMA_REGISTERS(WgmmaF16Rows, float, 64, "+f", LOWBIT_LIST64, LOWBIT_OUT64, "m64n128k16", "f32.f16.f16",
                       ", 1, 1, 1", "%64", "%65", "%66", "%67", "%68", "%69")
LOWBIT_WGMMA_REGISTERS(WgmmaF16Rows, float, 32, "+f", LOWBIT_LIST32, LOWBIT_OUT32, "m64n64k16", "f32.f16.f16",
                       ", 1, 1, 1", "%32", "%33", "%34", "%35", "%36", "%37")
LOWBIT_WGMMA_REGISTERS(WgmmaF16Rows, float, 16, "+f", LOWBIT_LIST16, LOWBIT_OUT16, "m64n32k16", "f32.f16.f16",
                       ", 1, 1, 1", "%16", "%17", "%18", "%19", "%20", "%21")
LOWBIT_WGMMA_REGISTERS(WgmmaF16Rows, float, 8, "+f", LOWBIT_LIST8, LOWBIT_OUT8, "m64n16k16", "f32.f16.f16", ", 1, 1, 1",
                       "%8", "%9", "%10", "%11", "%12", "%13")

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

#undef LOWBIT_WGMMA_FEW
#undef LOWBIT_WGMMA_FLOATS
#undef LOWBIT_WGMMA_SHARED
#undef LOWBIT_WGMMA_REGISTERS
#undef LOWBIT_OUT128
#undef LOWBIT_OUT88
#undef LOWBIT_OUT64
#undef LOWBIT_OUT32
#undef LOWBIT_OUT16
#undef LOWBIT_OUT8
#undef LOWBIT_OUT4
#undef LOWBIT_LIST128
#undef LOWBIT_LIST88
#undef LOWBIT_LIST64
#undef LOWBIT_LIST32
#undef LOWBIT_LIST16
#undef LOWBIT_LIST8
#undef LOWBIT_LIST4

}  // namespace lowbit::cuda
