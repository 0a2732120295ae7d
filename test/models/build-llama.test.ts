import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';

import { attentionForms, buildLlama, type LlamaOptions } from '../../models/build-llama.js';
import { presets, readConfig, type LlamaConfig } from '../../models/llama-config.js';
import { bookwormFolder } from '../../models/bookworm.js';
import { randomSource, safetensorsSource } from '../../models/weights.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';

import { root } from '../cli/run-cli.js';
import { decode, toFloat32 } from '../helpers/decoder.js';

const tiny = presets['tiny']!;
const ids = [1, 200, 3, 77, 5, 6, 130, 8];

async function logitsOf(
  config: LlamaConfig,
  options: LlamaOptions = {},
  chunks: number[] = [ids.length],
): Promise<Float32Array> {
  const session = await InferenceSession.create(serializeModel(buildLlama(config, randomSource(7), options)));
  try {
    return toFloat32(await decode(session, ids, chunks));
  } finally {
    await session.release();
  }
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  return a.reduce((largest, value, index) => Math.max(largest, Math.abs(value - b[index]!)), 0);
}

describe('models we build', () => {
  const shapes: [string, LlamaConfig][] = [
    ['grouped heads, tied embedding', tiny],
    ['a key/value head for each head, output layer of its own', { ...tiny, kvHeads: 4, tied: false }],
    ['heads that do not fill the hidden size', { ...tiny, headDim: 32, heads: 6, kvHeads: 3 }],
  ];
  for (const [name, config] of shapes) {
    it(`all forms compute the same: ${name}`, async () => {
      const standard = await logitsOf(config, { attention: 'decomposed' });
      assert.equal(standard.length, ids.length * config.vocab);
      assert.ok(largestDifference(standard, new Float32Array(standard.length)) > 0.5, 'logits are not all small');
      for (const attention of ['gqa', 'mha', 'onnx'] as const)
        assert.ok(largestDifference(await logitsOf(config, { attention }), standard) < 1e-4, attention);
    });
  }

  for (const attention of attentionForms) {
    it(`${attention}: token by token gives what all at once gives`, async () => {
      const whole = await logitsOf(tiny, { attention });
      const steps = await logitsOf(tiny, { attention }, [4, 1, 1, 2]);
      assert.ok(largestDifference(whole, steps) < 1e-4);
    });

    it(`${attention}: float16 is close to float32`, async () => {
      const wide = await logitsOf(tiny, { attention });
      assert.ok(largestDifference(await logitsOf(tiny, { attention, dtype: 'float16' }), wide) < 0.05);
    });
  }

  it('random weights are the same every time, and spread as they should', () => {
    const weight = () => randomSource(3)('w', [64, 128]);
    const digest = () => createHash('sha256').update(weight().bytes()).digest('hex');
    assert.equal(digest(), digest());
    const values = new Float32Array(weight().bytes().slice().buffer);
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    assert.ok(Math.abs(deviation * Math.sqrt(128) - 1) < 0.03, `deviation ${deviation}`);
  });

  it('refuses shapes that make no model, and weights of another shape', () => {
    assert.throws(
      () => buildLlama({ ...tiny, kvHeads: 3 }, randomSource(1)),
      /--kv-heads: is 3, expected a divisor of the 4 heads/,
    );
    const config = { ...readConfig(bookwormFolder), vocab: 5000 };
    assert.throws(
      () => buildLlama(config, safetensorsSource(bookwormFolder)),
      /has shape \[4096,384\], expected \[5000,384\]/,
    );
  });

  it('the command refuses a seed that is no number', () => {
    const script = join(root, 'dist/models/build-model.js');
    const { status, stderr } = spawnSync(process.execPath, [script, 'never.onnx', '--seed', 'abc'], {
      encoding: 'utf8',
    });
    assert.equal(status, 2, stderr);
    assert.match(stderr, /^--seed: "abc" given, expected a whole number/);
  });
});
