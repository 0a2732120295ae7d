/** The operator library in hosts that are not ours: a plain C program, and Python where it has onnxruntime. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { nativePaths } from '../../native/js/load.js';
import { packageRoot } from '../helpers/child.js';
import { quantizedLayerModel } from '../helpers/tiny-models.js';

const rows = 3;
const channels = 64;

/** FNV-1a of 64 bits, as the other hosts compute it. */
function fnv1a(bytes: Uint8Array): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of bytes) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return hash.toString(16).padStart(16, '0');
}

/** What our host answers to the other hosts' feed, in their words. */
async function expectedLine(model: Uint8Array): Promise<string> {
  const session = await InferenceSession.create(model);
  const x = Float32Array.from({ length: rows * channels }, (_, i) => (((i * 37) % 64) - 32) / 16);
  const { y } = await session.run({ x: new Tensor('float32', x, [rows, channels]) });
  await session.release();
  const data = y!.data as Float32Array;
  assert.ok(data.some((value) => value !== 0));
  return `y ${y!.dims.join(',')} ${fnv1a(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))}\n`;
}

describe('native/other hosts', () => {
  const { runtime, operatorLibrary } = nativePaths();
  const program = join(packageRoot, 'build', 'test', 'run_model');
  const script = join(packageRoot, 'test', 'python', 'run_model.py');
  let folder: string;
  let path: string;
  let expected: string;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'ort-lowbit-hosts-'));
    path = join(folder, 'layer.onnx');
    const model = quantizedLayerModel(channels, 32);
    writeFileSync(path, model);
    expected = await expectedLine(model);
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('a plain C program runs the operators, with the same bytes as result', () => {
    assert.ok(existsSync(program), `${program} is not there: npm run build:native`);
    const result = spawnSync(program, [runtime, operatorLibrary, path, `x=${rows},${channels}`], { encoding: 'utf8' });
    assert.deepEqual([result.status, result.stdout, result.stderr], [0, expected, '']);
  });

  it('a plain C program says what does not load', () => {
    const result = spawnSync(program, [runtime, operatorLibrary, join(folder, 'nope.onnx')], { encoding: 'utf8' });
    assert.equal(result.status, 3);
    assert.match(result.stderr, /run_model: CreateSession failed: /);
  });

  it('Python runs the operators, with the same bytes as result', function () {
    const python = spawnSync('python3', ['-c', 'import numpy, onnxruntime'], { encoding: 'utf8' });
    if (python.status !== 0) return this.skip();
    const result = spawnSync('python3', [script, operatorLibrary, path, `x=${rows},${channels}`], { encoding: 'utf8' });
    assert.deepEqual([result.status, result.stdout], [0, expected], result.stderr);
    return undefined;
  });

  it('the operator library needs neither ONNX Runtime nor Node to be linked', () => {
    const names = readFileSync(operatorLibrary, 'latin1');
    assert.doesNotMatch(names, /libonnxruntime\.so|libnode\.so|napi_/);
  });
});
