import assert from 'node:assert/strict';
import type { Tensor } from 'onnxruntime-common';
import { describeTextModel, logSumExp, nextPast, readLogits, stepFeeds } from '../../native/js/lm/index.js';
import type { Feeds } from '../../graph-rewrite/lm/session.js';
import { readTokens } from '../../graph-rewrite/lm/tokens.js';
import { InferenceSession } from '../../native/js/index.js';
import { evalTokens, evaluate, ModelFolder, rewriteModel } from './bookworm.js';
import { ladder, verdict } from './expectations.js';

const tokens = 128;

/** Mean negative log likelihood of each next token, fed in pieces of `size`, with the cache bytes at the end. */
async function feedInPieces(path: string, ids: Int32Array, size: number): Promise<{ nll: number; cacheBytes: number }> {
  const session = await InferenceSession.create(path);
  const model = describeTextModel(session);
  let past: Feeds | undefined;
  let sum = 0;
  for (let start = 0; start < tokens; start += size) {
    const outputs = await session.run(stepFeeds(model, ids.subarray(start, start + size), start, past));
    const { rows, vocabulary, data } = readLogits(outputs[model.logits] as Tensor, model.logits);
    for (let row = 0; row < rows; row++) {
      const scores = data.subarray(row * vocabulary, (row + 1) * vocabulary);
      sum += logSumExp(scores) - scores[ids[start + row + 1]!]!;
    }
    past = nextPast(model, outputs);
  }
  await session.release();
  const bytes = Object.values(past ?? {}).map(({ data }) => (data as Uint8Array).byteLength);
  return { nll: sum / tokens, cacheBytes: bytes.reduce((all, each) => all + each, 0) };
}

describe('e2e: a 4-bit cache', function () {
  this.timeout(300_000);
  const folder = new ModelFolder();
  after(() => folder.remove());

  it('genai, injected: meets its row', async () => {
    const step = ladder.find(({ recipe }) => recipe === 'kv4')!;
    const output = `${folder.path}/injected-kv4.onnx`;
    await rewriteModel(await folder.float('genai', 'injected'), output, step);
    const { perplexity } = await evaluate(output, 100);
    assert.equal(verdict(step, 'injected', perplexity), undefined);
  });

  for (const graph of ['genai', 'dynamo'] as const) {
    it(`${graph}: a text in one piece and token by token agree within 0.2 %, in 4.5 bits an element`, async () => {
      const output = `${folder.path}/${graph}-kv4.onnx`;
      await rewriteModel(await folder.float(graph, 'plain'), output, { recipe: 'kv4', set: [] });
      const ids = readTokens(evalTokens);
      const whole = await feedInPieces(output, ids, tokens);
      const single = await feedInPieces(output, ids, 1);
      assert.ok(Math.abs(Math.exp(single.nll - whole.nll) - 1) <= 0.002, `${whole.nll} and ${single.nll}`);
      const elements = 6 * 2 * 2 * 64 * tokens; // layers, key and value, kv heads, head size 64
      assert.equal((8 * single.cacheBytes) / elements, 4.5);
    });
  }
});
