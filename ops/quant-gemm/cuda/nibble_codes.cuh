// Nibbles of any 4-bit format to e4m3 bytes, four at a time, by table.
#pragma once
#include <cstdint>

#include "ops/common/cuda/types.h"

namespace lowbit::cuda {

// The e4m3 bit pattern of each nibble's value times a power of two, chosen so that bit 0 is never set: s4 as
// 2q * 2^-9, e2m1 as v / 64, e3m0 as v / 16, bnb_fp4 as v.
constexpr uint32_t NibbleE4M3(Format format, int nibble) {
  const int magnitude = nibble & 7, sign = nibble & 8 ? 0x80 : 0;
  if (format == Format::kE2M1) return sign | magnitude << 2;
  if (format == Format::kE3M0) return sign | magnitude << 3;
  if (format == Format::kBnbFp4) {
    constexpr uint32_t kPatterns[8] = {0x00, 0x18, 0x40, 0x44, 0x48, 0x4c, 0x50, 0x54};
    return sign | kPatterns[magnitude];
  }
  return sign | 2 * (sign ? 8 - magnitude : magnitude);
}

// What a weight's scale is multiplied by so that these patterns stand for the format's values.
constexpr float NibbleFactor(Format format) {
  return format == Format::kE2M1 ? 64.0f : format == Format::kE3M0 ? 16.0f : format == Format::kS4 ? 256.0f : 1.0f;
}

// The tables of a format as PRMT wants them: patterns of nibbles 0 ... 3, 4 ... 7, 8 ... 11, 12 ... 15, the latter two,
// whose bit 7 is set, halved.
struct NibbleTables {
  uint32_t word[4] = {};
};
constexpr NibbleTables MakeNibbleTables(Format format) {
  NibbleTables tables;
  for (int nibble = 0; nibble < 16; ++nibble) {
    tables.word[nibble / 4] |= (NibbleE4M3(format, nibble) >> nibble / 8) << (nibble % 4 * 8);
  }
  return tables;
}

// The same of s4 and e2m1 values times 2^-k, for weights whose scales are powers of two apart: q * 2^(5 - k), and e2m1
// as v * 2^(6 - k). With k = 14 the smallest would have bit 0 set, which is why scale_ratios promises k <= 13.
constexpr int kLargestShift = 13;
struct FoldedTables {
  NibbleTables shift[kLargestShift + 1];
};

// The e4m3 bits of m * 2^exponent, m < 16.
constexpr uint32_t BitsE4M3(uint32_t m, int exponent) {
  if (m == 0) return 0;
  for (; m < 8; m *= 2) --exponent;
  const int biased = exponent + 10;
  return biased > 0 ? static_cast<uint32_t>(biased) << 3 | (m & 7) : m >> (1 - biased);
}
constexpr FoldedTables MakeFoldedTables(Format format) {
  constexpr uint32_t kHalves[8] = {0, 1, 2, 3, 4, 6, 8, 12};  // e2m1 times 2
  FoldedTables tables;
  for (int k = 0; k <= kLargestShift; ++k) {
    for (int nibble = 0; nibble < 16; ++nibble) {
      const uint32_t low = nibble & 7, sign = nibble & 8 ? 0x80 : 0;
      const uint32_t m = format == Format::kE2M1 ? kHalves[low] : sign ? 8 - low : low;
      tables.shift[k].word[nibble / 4] |= ((sign | BitsE4M3(m, 5 - k)) >> nibble / 8) << (nibble % 4 * 8);
    }
  }
  return tables;
}
inline const FoldedTables& FoldedTablesOf(Format format) {
  static constexpr FoldedTables kS4 = MakeFoldedTables(Format::kS4), kE2M1 = MakeFoldedTables(Format::kE2M1);
  return format == Format::kE2M1 ? kE2M1 : kS4;
}
// What a row's largest scale is multiplied by.
constexpr float FoldedFactor(Format format) { return format == Format::kE2M1 ? 0x1p-6f : 0x1p-5f; }

// `nibbles`: four, in the low 16 bits, zeros above. Where a PRMT selector has bit 3 set the result is the entry's bit
// 7, eight times: no pattern here has it, so that is 0 and the two look-ups complete each other.
__device__ __forceinline__ uint32_t DecodeNibbles(const NibbleTables& tables, uint32_t nibbles) {
  uint32_t low, high, both;  // not __byte_perm, which ignores bit 3
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(low) : "r"(tables.word[0]), "r"(tables.word[1]), "r"(nibbles));
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(high) : "r"(tables.word[2]), "r"(tables.word[3]), "r"(nibbles ^ 0x8888));
  asm("mad.lo.u32 %0, %1, 2, %2;" : "=r"(both) : "r"(high), "r"(low));
  return both;
}

}  // namespace lowbit::cuda
