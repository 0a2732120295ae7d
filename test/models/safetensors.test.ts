import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';

import { readFloats } from '../../graph-rewrite/ir/tensor.js';
import { openSafetensors } from '../../models/safetensors.js';
import { temporaryFolder } from '../helpers/files.js';

function safetensors(entries: Record<string, { dtype: string; shape: number[]; data: Uint8Array }>): Buffer {
  let end = 0;
  const header = Object.fromEntries(
    Object.entries(entries).map(([name, { dtype, shape, data }]) => {
      const start = end;
      end += data.byteLength;
      return [name, { dtype, shape, data_offsets: [start, end] }];
    }),
  );
  const json = Buffer.from(JSON.stringify({ __metadata__: { format: 'pt' }, ...header }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...Object.values(entries).map(({ data }) => data)]);
}

const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);

describe('safetensors', () => {
  const folder = temporaryFolder();
  const write = (name: string, content: Uint8Array | string) => writeFileSync(folder.path(name), content);

  it('reads tensors and ranges', () => {
    const b = new Uint8Array(Uint16Array.of(0x3f80, 0x4000).buffer);
    const a = { dtype: 'F32', shape: [3], data: floats(1, 2, 3) };
    write('model.safetensors', safetensors({ a, b: { dtype: 'BF16', shape: [2, 1], data: b } }));
    const tensors = openSafetensors(folder.path());
    assert.deepEqual([...readFloats(tensors.get('a')!, 1, 2)], [2, 3]);
    assert.deepEqual([...readFloats(tensors.get('b')!)], [1, 2]);
    assert.deepEqual(tensors.get('b')!.dims, [2, 1]);
  });

  it('reads models in several files', () => {
    for (const name of ['a', 'b'])
      write(`${name}.safetensors`, safetensors({ [name]: { dtype: 'F32', shape: [1], data: floats(5) } }));
    const index = { weight_map: { a: 'a.safetensors', b: 'b.safetensors' } };
    write('model.safetensors.index.json', JSON.stringify(index));
    assert.deepEqual([...openSafetensors(folder.path()).keys()], ['a', 'b']);
  });

  it('refuses other and damaged files', () => {
    assert.throws(() => openSafetensors(folder.path()), /holds neither model.safetensors nor/);
    write('model.safetensors', 'not safetensors at all');
    assert.throws(() => openSafetensors(folder.path()), /is not a safetensors file, or is truncated/);
    write('model.safetensors', safetensors({ a: { dtype: 'F32', shape: [4], data: floats(1) } }));
    assert.throws(() => openSafetensors(folder.path()), /tensor "a": has 4 bytes, expected 16/);
    write('model.safetensors', safetensors({ a: { dtype: 'F32', shape: [2], data: floats(1, 2) } }).subarray(0, -1));
    assert.throws(() => readFloats(openSafetensors(folder.path()).get('a')!), /expected at least/);
    write('model.safetensors', safetensors({ a: { dtype: 'Q9', shape: [1], data: floats(1) } }));
    assert.throws(() => openSafetensors(folder.path()), /is of type Q9, expected one of F64, F32/);
  });
});
