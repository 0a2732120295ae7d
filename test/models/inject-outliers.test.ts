import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { readFloats } from '../../graph-rewrite/ir/index.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { root, scratch } from '../cli/run-cli.js';
import { writeTinyModel } from '../cli/tiny-model.js';

const script = join(root, 'dist/models/inject-outliers.js');

function inject(...words: string[]): { code: number | null; stderr: string } {
  const { status, stderr } = spawnSync(process.execPath, [script, ...words], { encoding: 'utf8' });
  return { code: status, stderr };
}

/** Elements of each constant that changed: flat index to new / old. */
function changes(before: string, after: string): Map<string, Map<number, number>> {
  const [old, current] = [loadModel(before), loadModel(after)];
  const found = new Map<string, Map<number, number>>();
  for (const value of old.graph.initializers()) {
    if (value.initializer?.dtype !== 'float32') continue;
    const [a, b] = [readFloats(value.initializer), readFloats(current.graph.value(value.name)!.initializer!)];
    const ratios = new Map<number, number>();
    a.forEach((each, i) => {
      if (each !== b[i]) ratios.set(i, b[i]! / each);
    });
    if (ratios.size > 0) found.set(value.name, ratios);
  }
  return found;
}

describe('inject outliers', function () {
  this.timeout(30_000);
  const folder = scratch();
  const [plain, injected] = [folder.file('plain.onnx'), folder.file('injected.onnx')];
  // 64 channels, an MLP of 128, four heads of 16 that share two value heads; q, k and v are one product of 64 + 32 + 32 rows.
  before(() => writeTinyModel(plain));
  after(() => folder.remove());

  it('scales the channels of the rule, and no others', () => {
    const result = inject(plain, injected);
    assert.equal(result.code, 0, result.stderr);
    const found = changes(plain, injected);
    const of = (pattern: RegExp): Map<number, number> => {
      const name = [...found.keys()].find((each) => pattern.test(each));
      assert.ok(name, `${pattern} among ${[...found.keys()].join(', ')}`);
      return found.get(name)!;
    };
    const layer = 1;
    const chosen = (step: number, shift: number, start: number, count: number, width: number): number[] =>
      Array.from({ length: count }, (_, i) => (step * i + shift * layer + start) % width).sort((a, b) => a - b);

    const norm = of(/layers\.1\.input_layernorm/);
    assert.deepEqual(
      [...norm.keys()].sort((a, b) => a - b),
      chosen(61, 17, 5, 6, 64),
    );
    assert.ok([...norm.values()].every((ratio) => ratio === 32));

    const down = of(/layers\.1.*down_proj/); // [K, N]
    const rows = new Set([...down.keys()].map((i) => Math.floor(i / 64)));
    assert.deepEqual(
      [...rows].sort((a, b) => a - b),
      chosen(83, 31, 7, 12, 128),
    );
    assert.ok([...down.values()].every((ratio) => ratio === 1 / 32));

    const o = of(/layers\.1.*o_proj/);
    const columns = [...new Set([...o.keys()].map((i) => Math.floor(i / 64)))].sort((a, b) => a - b);
    const [first, second] = [(13 * layer + 9) % 16, (23 * layer + 21) % 16];
    assert.deepEqual(columns, [first, 16 + first, 32 + second, 48 + second]);
    assert.ok([...o.values()].every((ratio) => ratio === 1 / 16));
  });

  it('takes another factor, refuses one below 1', () => {
    const result = inject(plain, folder.file('other.onnx'), '--factor', '8');
    assert.equal(result.code, 0, result.stderr);
    const ratios = [...changes(plain, folder.file('other.onnx'))].filter(([name]) => /input_layernorm/.test(name));
    assert.ok(ratios.every(([, each]) => [...each.values()].every((ratio) => ratio === 8)));
    const refused = inject(plain, folder.file('none.onnx'), '--factor', '0.5');
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /^--factor: "0\.5" given, expected a number of at least 1/);
  });

  it('never replaces an output unasked', () => {
    const result = inject(plain, injected);
    assert.equal(result.code, 2);
    assert.match(result.stderr, /injected\.onnx: exists already/);
  });
});
