// 64-bit integers between protobufjs (two halves), numbers (when exact) and bigint (when not).
import type { Int64 } from './messages.js';

/** The exact value: a number where a double holds it, a bigint otherwise. */
export function fromInt64(value: Int64): number | bigint {
  const low = value.low >>> 0;
  const number = value.high * 0x1_0000_0000 + low;
  if (Number.isSafeInteger(number) && !value.unsigned) return number;
  const high = BigInt(value.unsigned ? value.high >>> 0 : value.high);
  const exact = (high << 32n) | BigInt(low);
  return exact >= BigInt(Number.MIN_SAFE_INTEGER) && exact <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(exact) : exact;
}

export function toInt64(value: number | bigint): Int64 {
  const bits = BigInt.asUintN(64, BigInt(value));
  return { low: Number(bits & 0xffff_ffffn) | 0, high: Number(bits >> 32n) | 0, unsigned: false };
}
