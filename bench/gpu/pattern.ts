/** Constants for measurements: numbers without a pattern, repeated every 65521, and no zeros, which cost less power than others. */
export type Data = Float32Array | Int8Array | Uint8Array | Uint16Array | Int32Array;

const noise = ((): Uint8Array => {
  let state = 1;
  return Uint8Array.from({ length: 65521 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
})();

/** float16 bits of magnitude 2^-4 … 2^-3, both signs. */
const smallHalves = Uint16Array.from(
  noise,
  (byte, i) => (((byte << 8) | noise[noise.length - 1 - i]!) & 0x83ff) | 0x2c00,
);

function repeat<T extends Uint8Array | Uint16Array>(block: T, out: T): T {
  for (let at = 0; at < out.length; at += block.length) out.set(block.subarray(0, out.length - at), at);
  return out;
}

/** Random bytes. */
export const bytes = (count: number): Uint8Array => repeat(noise, new Uint8Array(count));

/** Which bits of a byte an activation code of a format may have. */
const masks: Readonly<Record<string, number>> = { s4_e4m3: 0x87, e4m3: 0xbf };

/** Codes of activations in a format, one a byte. */
export function codes(format: string, count: number): Uint8Array {
  const block = noise.map((byte) => (format === 's4' ? (byte << 28) >> 28 : byte & (masks[format] ?? 255)));
  return repeat(block, new Uint8Array(count));
}

/** float16 bits of random numbers of magnitude 2^-4 … 2^-3. */
export const halves = (count: number): Uint16Array => repeat(smallHalves, new Uint16Array(count));

/** float16 bits of 2^-7. */
export const scales = (count: number): Uint16Array => new Uint16Array(count).fill(0x2000);
