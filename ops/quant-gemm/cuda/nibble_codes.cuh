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

// `nibbles`: four, in the low 16 bits, zeros above. Where a PRMT selector has bit 3 set the result is the entry's bit
// 7, eight times: no pattern here has it, so that is 0 and the two look-ups complete each other.
__device__ __forceinline__ uint32_t DecodeNibbles(const NibbleTables& tables, uint32_t nibbles) {
  uint32_t low, high, both;  // not __byte_perm, which ignores bit 3
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(low) : "r"(tables.word[0]), "r"(tables.word[1]), "r"(nibbles));
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(high) : "r"(tables.word[2]), "r"(tables.word[3]), "r"(nibbles ^ 0x8888));
  asm("mad.lo.u32 %0, %1, 2, %2;" : "=r"(both) : "r"(high), "r"(low));
  return both;
}

// The e4m3 patterns of e2m1 magnitudes 0 ... 3 and 4 ... 7 times 2^(6 - k), k = 0 ... 14.
__device__ __forceinline__ uint2 FoldedTable(uint32_t k) {
  if (k < 12) return make_uint2(0x6c686000u - k * 0x08080800u, 0x7c787470u - k * 0x08080808u);
  // With subnormal ones.
  return k == 12   ? make_uint2(0x0c080400u, 0x1c181410u)
         : k == 13 ? make_uint2(0x06040200u, 0x14100c08u)
                   : make_uint2(0x03020100u, 0x0c080604u);
}

// As DecodeNibbles, for sign and magnitude, by such a table; signs are moved to the tops of their bytes.
__device__ __forceinline__ uint32_t DecodeFolded(uint2 table, uint32_t nibbles) {
  uint32_t sizes, signs;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(sizes) : "r"(table.x), "r"(table.y), "r"(nibbles & 0x7777));
  asm("prmt.b32 %0, %1, %2, 0x1504;" : "=r"(signs) : "r"(nibbles), "r"(nibbles << 4));
  return sizes | (signs & 0x80808080);
}

}  // namespace lowbit::cuda
