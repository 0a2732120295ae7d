import { deepEqual, equal, throws } from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import {
  cutWindows,
  checkIds,
  readNpy,
  readNpz,
  readTokens,
  writeNpy,
  writeNpz,
} from '../../graph-rewrite/lm/index.js';
import type { NpyArray } from '../../graph-rewrite/lm/index.js';
import { temporaryFolder } from '../helpers/files.js';

const int: NpyArray = { dtype: 'int64', shape: [2, 3], data: BigInt64Array.of(1n, -2n, 3n, 4n, 5n, 6n) };
const float: NpyArray = { dtype: 'float32', shape: [4], data: Float32Array.of(1, NaN, -0, 1e30) };
const scalar: NpyArray = { dtype: 'float64', shape: [], data: Float64Array.of(0.1) };

describe('npy and npz', () => {
  it('read what they write', () => {
    for (const array of [int, float, scalar]) deepEqual(readNpy(writeNpy(array), 'x.npy'), array);
    const arrays = new Map([
      ['a/b', int],
      ['c', float],
    ]);
    deepEqual(readNpz(writeNpz(arrays), 'x.npz'), arrays);
  });

  it('start data at a multiple of 64 bytes, as numpy does', () => {
    for (const array of [int, float, scalar]) equal((writeNpy(array).length - array.data.byteLength) % 64, 0);
  });

  it('read a file written by numpy', () => {
    const header = "{'descr': '<u2', 'fortran_order': False, 'shape': (3,), }".padEnd(117) + '\n';
    const file = Buffer.concat([
      Buffer.from('\x93NUMPY\x01\x00\x76\x00', 'latin1'),
      Buffer.from(header),
      Buffer.from([1, 0, 2, 0, 0, 16]),
    ]);
    // A view at an odd offset, as a file inside a larger buffer has.
    const shifted = Buffer.concat([Buffer.alloc(1), file]).subarray(1);
    deepEqual(readNpy(shifted, 'x.npy'), { dtype: 'uint16', shape: [3], data: Uint16Array.of(1, 2, 4096) });
  });

  it('refuse what they cannot read, with the reason', () => {
    const bytes = writeNpy(int);
    throws(() => readNpy(bytes.subarray(0, 150), 'x.npy'), /x\.npy: has .* bytes of data, expected 48/);
    throws(() => readNpy(new Uint8Array(200), 'x.npy'), /does not start as a \.npy file/);
    const text = Buffer.from(bytes).toString('latin1');
    throws(() => readNpy(Buffer.from(text.replace('False', 'True '), 'latin1'), 'x'), /Fortran order/);
    throws(() => readNpy(Buffer.from(text.replace('<i8', '<c8'), 'latin1'), 'x'), /holds <c8/);
    throws(() => readNpy(bytes.subarray(0, 40), 'x'), /has 40 bytes and a header that ends at 128, expected all of it/);
    for (const shape of ['(-2, 3)', '(2, x)', '(2, 3e99)'])
      throws(() => readNpy(Buffer.from(text.replace('(2, 3)', shape), 'latin1'), 'x'), /expected whole numbers/);
    throws(() => readNpz(Buffer.from('no zip'), 'x.npz'), /x\.npz: is not a \.npz file/);
  });
});

describe('token files', () => {
  const folder = temporaryFolder();
  const save = (...ids: bigint[]): string => {
    const array: NpyArray = { dtype: 'int64', shape: [ids.length], data: BigInt64Array.from(ids) };
    writeFileSync(folder.path('ids.npy'), writeNpy(array));
    return folder.path('ids.npy');
  };

  it('give ids of any integer type', () => {
    deepEqual(readTokens(save(1n, 2n)), Int32Array.of(1, 2));
  });

  it('do not wrap numbers that are no ids', () => {
    throws(() => readTokens(save(1n, 2n ** 40n)), /has 1099511627776 at position 1, expected token ids below 2\^31/);
  });
});

describe('token windows', () => {
  const ids = Int32Array.from({ length: 10 }, (_, i) => i);

  it('do not overlap and include the ids to predict', () => {
    deepEqual(
      cutWindows(ids, { length: 3, count: 9, extra: 1, at: 't' }).map((each) => [...each]),
      [
        [0, 1, 2, 3],
        [3, 4, 5, 6],
        [6, 7, 8, 9],
      ],
    );
    equal(cutWindows(ids, { length: 3, count: 2, at: 't' }).length, 2);
  });

  it('need at least one window', () => {
    throws(
      () => cutWindows(ids, { length: 10, count: 1, extra: 1, at: 'x.txt' }),
      /x\.txt: has 10 tokens, expected at least 11/,
    );
  });

  it('refuse ids beyond the vocabulary', () => {
    checkIds(ids, 10, 't');
    throws(() => checkIds(ids, 9, 't'), /has token id 9, the model's vocabulary has 9 entries/);
    throws(() => checkIds([-1], 9, 't'), /token id -1/);
  });
});
