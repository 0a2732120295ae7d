import assert from 'node:assert/strict';
import { readTokens } from '../../graph-rewrite/lm/tokens.js';
import { InferenceSession } from '../../native/js/index.js';
import { evalTokens, evaluate, ModelFolder, rewriteModel } from './bookworm.js';
import { ladder, verdict } from './expectations.js';
import { nllInPieces } from './pieces.js';

const tokens = 128;

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
      const texts = [readTokens(evalTokens).subarray(0, tokens + 1)];
      const session = await InferenceSession.create(output);
      const whole = await nllInPieces(session, texts, tokens);
      const single = await nllInPieces(session, texts, 1);
      await session.release();
      assert.ok(Math.abs(Math.exp(single.nll - whole.nll) - 1) <= 0.002, `${whole.nll} and ${single.nll}`);
      const elements = 6 * 2 * 2 * 64 * tokens; // layers, key and value, kv heads, head size 64
      assert.equal((8 * single.cacheBytes) / elements, 4.5);
    });
  }
});
