import { unzipSync, zipSync } from 'fflate';
import { inputError } from '../../ops/common/errors.js';
import { readNpy, writeNpy } from './npy.js';
import type { NpyArray } from './npy.js';

/** Arrays of a `.npz` file (numpy.savez, also compressed) by name. */
export function readNpz(bytes: Uint8Array, at: string): Map<string, NpyArray> {
  let entries: Record<string, Uint8Array>;
  try {
    entries = unzipSync(bytes, { filter: ({ name }) => name.endsWith('.npy') });
  } catch (cause) {
    throw inputError(
      at,
      `is not a .npz file (${(cause as Error).message}), expected arrays saved by numpy.savez`,
      '',
      cause,
    );
  }
  return new Map(
    Object.entries(entries).map(([name, data]) => [name.slice(0, -'.npy'.length), readNpy(data, `${at}: ${name}`)]),
  );
}

/** The bytes of a `.npz` file without compression. */
export function writeNpz(arrays: ReadonlyMap<string, NpyArray>): Uint8Array {
  const entries = [...arrays].map(([name, array]) => [`${name}.npy`, writeNpy(array)] as const);
  return zipSync(Object.fromEntries(entries), { level: 0 });
}
