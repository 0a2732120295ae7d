import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { LowbitError } from '../../ops/common/errors.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { temporaryFolder, zooFolder } from '../helpers/files.js';
import { writeModel } from '../helpers/models.js';

describe('files that are no models', () => {
  const folder = temporaryFolder();
  const whole = readFileSync(join(zooFolder, 'opt_kv_ts17.onnx'));

  const cases: [what: string, content: Uint8Array | string, message: RegExp][] = [
    ['an empty file', '', /is empty/],
    ['text', 'this is not a model\n', /is not an ONNX model/],
    ['JSON', '{"model_type": "llama"}', /is not an ONNX model/],
    ['a Git LFS pointer', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', /is a Git LFS pointer/],
    ['a model cut in the middle', whole.subarray(0, whole.length >> 1), /is truncated or damaged/],
    ['a model without its last byte', whole.subarray(0, -1), /is truncated or damaged/],
    ['a message without a graph', Buffer.of(0x08, 0x08), /holds no graph/],
  ];
  for (const [what, content, message] of cases) {
    it(`${what} is refused`, () => {
      writeFileSync(folder.path('model.onnx'), content);
      assert.throws(
        () => loadModel(folder.path('model.onnx')),
        (error) => error instanceof LowbitError && error.code === 'input' && message.test(error.message),
      );
    });
  }

  it('missing files and folders are named', () => {
    assert.throws(() => loadModel(folder.path('none.onnx')), /none.onnx: no such file/);
    mkdirSync(folder.path('folder'));
    assert.throws(() => loadModel(folder.path('folder')), /folder: is not a file/);
  });

  it('a name that is defined twice is refused', () => {
    const node = [1, 2].map(() => ({ opType: 'Identity', input: [], output: ['y'] }));
    writeModel(folder.path('model.onnx'), { name: 'g', node });
    assert.throws(
      () => loadModel(folder.path('model.onnx')),
      /model\.onnx: graph "g": defines "y" twice, expected once/,
    );
  });

  const graphs: [what: string, edges: [input: string, output: string][], message: RegExp][] = [
    [
      'nodes that wait for each other',
      [
        ['b', 'a'],
        ['a', 'b'],
      ],
      /nodes "1" and "0" are on a cycle, expected an order/,
    ],
    ['a value from nowhere', [['x', 'y']], /node "0" \(Relu\): its input "x" is defined nowhere, expected an input/],
  ];
  for (const [what, edges, message] of graphs) {
    it(`${what}: refused`, () => {
      const node = edges.map(([from, to], i) => ({ opType: 'Relu', name: String(i), input: [from], output: [to] }));
      writeModel(folder.path('model.onnx'), { name: 'g', node });
      assert.throws(
        () => loadModel(folder.path('model.onnx')),
        (error) => error instanceof LowbitError && error.code === 'input' && message.test(error.message),
      );
    });
  }
});
