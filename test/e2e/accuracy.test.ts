import assert from 'node:assert/strict';
import type { BookwormKind } from '../../models/bookworm.js';
import { evaluate, ModelFolder, rewriteModel, type Weights } from './bookworm.js';
import { floatPerplexity, floatTolerance, ladder, verdict } from './expectations.js';

/** The part of the table that every test run measures; `npm run test:accuracy` measures all of it. */
const cases: readonly { graph: BookwormKind; weights: Weights; recipes: readonly string[] }[] = [
  { graph: 'dynamo', weights: 'plain', recipes: ['w8a8', 'w4a16', 'w4a4-g128'] },
  { graph: 'dynamo', weights: 'injected', recipes: ['w4a4-g128', 'atom-w4a4'] },
  { graph: 'genai', weights: 'plain', recipes: ['atom-w4a4'] },
  { graph: 'genai', weights: 'injected', recipes: ['w4a16'] },
  { graph: 'built', weights: 'injected', recipes: ['atom-w4a4'] },
];
const windows = 100;
/** Codes and scales are counted exactly by the plan; what is written may differ by padding. */
const sizeTolerance = 0.01;

describe('e2e: perplexity of rewritten models, really run', function () {
  this.timeout(300_000);
  const folder = new ModelFolder();
  after(() => folder.remove());

  for (const graph of ['dynamo', 'genai'] as const) {
    it(`${graph}: the float model has perplexity ${floatPerplexity}`, async () => {
      const { perplexity, tokens } = await evaluate(await folder.float(graph, 'plain'), windows);
      assert.equal(tokens, windows * 512);
      assert.ok(Math.abs(perplexity - floatPerplexity) <= floatTolerance, `perplexity ${perplexity}`);
    });
  }

  it('injected outliers do not change the float model', async () => {
    const few = 4;
    const [plain, injected] = await Promise.all([folder.float('dynamo', 'plain'), folder.float('dynamo', 'injected')]);
    const before = await evaluate(plain, few);
    const after = await evaluate(injected, few);
    assert.ok(
      Math.abs(after.perplexity / before.perplexity - 1) < 1e-5,
      `${before.perplexity} became ${after.perplexity}`,
    );
  });

  for (const { graph, weights, recipes } of cases) {
    for (const recipe of recipes) {
      const step = ladder.find((each) => each.recipe === recipe && each.set.length === 0)!;
      it(`${graph}, ${weights}: ${step.scheme} meets its row, at its predicted size`, async () => {
        const output = `${folder.path}/${graph}-${weights}-${recipe}.onnx`;
        const report = await rewriteModel(await folder.float(graph, weights), output, step);
        assert.ok(report.sites.quantized > 0);
        assert.ok(report.kept.every(({ reason }) => reason.length > 0));
        const { predicted, real } = report.bitsPerWeight;
        assert.ok(Math.abs(real / predicted - 1) <= sizeTolerance, `${real} bits a weight, predicted ${predicted}`);
        const { perplexity } = await evaluate(output, windows);
        assert.equal(verdict(step, weights, perplexity), undefined);
      });
    }
  }
});
