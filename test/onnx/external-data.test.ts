import assert from 'node:assert/strict';
import { closeSync, linkSync, mkdirSync, openSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';

import { LowbitError } from '../../ops/common/errors.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { readFloats } from '../../graph-rewrite/ir/tensor.js';
import { temporaryFolder } from '../helpers/files.js';
import { externalTensor, writeModel } from '../helpers/models.js';

const fourFloats = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer);

describe('external data', () => {
  const folder = temporaryFolder();

  function load(entries: Record<string, string>, count = 4) {
    mkdirSync(folder.path('m'), { recursive: true });
    writeModel(folder.path('m', 'model.onnx'), { name: 'g', initializer: [externalTensor('w', count, entries)] });
    return loadModel(folder.path('m', 'model.onnx')).graph.value('w')!.initializer!;
  }

  function refused(entries: Record<string, string>, message: RegExp) {
    assert.throws(
      () => load(entries),
      (error) => error instanceof LowbitError && error.code === 'input' && message.test(error.message),
    );
  }

  beforeEach(() => {
    mkdirSync(folder.path('m', 'sub'), { recursive: true });
    writeFileSync(folder.path('m', 'w.bin'), fourFloats);
    writeFileSync(folder.path('m', 'sub', 'w.bin'), fourFloats);
    writeFileSync(folder.path('outside.bin'), fourFloats);
  });

  it('reads ranges, with and without offset and length', () => {
    assert.deepEqual([...readFloats(load({ location: 'w.bin' }))], [1, 2, 3, 4]);
    assert.deepEqual([...readFloats(load({ location: 'sub/w.bin' }), 1, 2)], [2, 3]);
    assert.deepEqual([...readFloats(load({ location: 'w.bin', offset: '8', length: '8' }, 2))], [3, 4]);
  });

  it('reads beyond 4 GiB', () => {
    const offset = 5 * 2 ** 30;
    const file = openSync(folder.path('m', 'large.bin'), 'w');
    writeSync(file, fourFloats, 0, 16, offset);
    closeSync(file);
    assert.deepEqual(
      [...readFloats(load({ location: 'large.bin', offset: String(offset), length: '16' }))],
      [1, 2, 3, 4],
    );
  });

  it('refuses paths out of the folder', () => {
    refused({ location: '../outside.bin' }, /leads out of the folder/);
    refused({ location: 'sub/../../outside.bin' }, /leads out of the folder/);
    refused({ location: 'sub\\..\\..\\outside.bin' }, /leads out of the folder/);
    refused({ location: folder.path('outside.bin') }, /is an absolute path/);
    refused({ location: 'C:\\outside.bin' }, /is an absolute path/);
    refused({ location: '' }, /names no file/);
  });

  it('refuses links out of the folder', () => {
    symlinkSync('../outside.bin', folder.path('m', 'soft.bin'));
    refused({ location: 'soft.bin' }, /is a link out of the folder/);
    symlinkSync('..', folder.path('m', 'up'));
    refused({ location: 'up/outside.bin' }, /is a link out of the folder/);
    linkSync(folder.path('outside.bin'), folder.path('m', 'hard.bin'));
    refused({ location: 'hard.bin' }, /is a hard link to a file outside/);
    refused({ location: 'sub' }, /is not a regular file/);
  });

  it('follows links that stay inside, and those of download caches', () => {
    symlinkSync('sub/w.bin', folder.path('m', 'soft.bin'));
    assert.deepEqual([...readFloats(load({ location: 'soft.bin' }))], [1, 2, 3, 4]);
    linkSync(folder.path('m', 'w.bin'), folder.path('m', 'twin.bin'));
    assert.deepEqual([...readFloats(load({ location: 'twin.bin' }))], [1, 2, 3, 4]);
    // A cache: model and data are links into a folder of blobs.
    mkdirSync(folder.path('snapshot'));
    mkdirSync(folder.path('blobs'));
    writeFileSync(folder.path('blobs', 'bbb'), fourFloats);
    writeModel(folder.path('blobs', 'aaa'), { initializer: [externalTensor('w', 4, { location: 'model.onnx_data' })] });
    symlinkSync('../blobs/aaa', folder.path('snapshot', 'model.onnx'));
    symlinkSync('../blobs/bbb', folder.path('snapshot', 'model.onnx_data'));
    const cached = loadModel(folder.path('snapshot', 'model.onnx')).graph.value('w')!;
    assert.deepEqual([...readFloats(cached.initializer!)], [1, 2, 3, 4]);
  });

  it('reports missing and short files with location, offset and length', () => {
    refused({ location: 'none.bin' }, /location "none.bin", offset 0, length 16\): data file .*none.bin is missing/);
    refused(
      { location: 'w.bin', offset: '4' },
      /offset 4, length 16\): data file .*w.bin has 16 bytes, expected at least 20/,
    );
    refused({ location: 'w.bin', length: '12' }, /has length 12, expected 16 bytes for float32\[4\]/);
    refused({ location: 'w.bin', offset: '-4' }, /offset: is "-4"/);
  });

  it('checks tensors in functions and attributes too', () => {
    const t = externalTensor('t', 4, { location: '../outside.bin' });
    const node = [{ opType: 'Constant', output: ['c'], attribute: [{ name: 'value', type: 4, t }] }];
    for (const fields of [{ graph: { name: 'g', node } }, { graph: { name: 'g' }, functions: [{ name: 'f', node }] }]) {
      const path = writeModel(folder.path('m', 'model.onnx'), fields.graph, fields);
      assert.throws(() => loadModel(path), /leads out of the folder/);
    }
  });
});
