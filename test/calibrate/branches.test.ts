/** Calibration inside the branches of an If, as decoders have them whose two forms were merged. */
import { deepEqual, equal, ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { calibrate } from '../../graph-rewrite/calibrate/index.js';
import { applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import type { Model } from '../../graph-rewrite/ir/index.js';
import { printGraph } from '../../graph-rewrite/ir/print.js';
import type { Feeds } from '../../graph-rewrite/lm/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { InferenceSession } from '../../native/js/index.js';
import { merged, mergedFeed as feed } from '../helpers/merged.js';
import { createOrtSession } from '../helpers/ort.js';
import { sqnr } from '../helpers/zoo.js';

async function runOf(model: Model, feeds: Feeds): Promise<Float32Array> {
  const session = await InferenceSession.create(serializeModel(model), { intraOpNumThreads: 1 });
  const outputs = await session.run(feeds).finally(() => session.release());
  return Object.values(outputs)[0]!.data as Float32Array;
}

describe('calibration in the branches of an If', () => {
  for (const depth of [1, 2]) {
    it(`sees what the branch that runs sees, ${depth} deep, and leaves the model as it was`, async () => {
      const model = merged(depth);
      const before = printGraph(model.graph);
      const analysis = analyze(model);
      equal(analysis.inputs.length, 2 ** depth);
      const only = async (flags: boolean[]) =>
        calibrate({
          model,
          analysis,
          feeds: flags.map((flag) => feed(flag)),
          createSession: createOrtSession,
          samples: true,
        });
      const [once, both] = [await only([true]), await only([true, false, false])];
      equal(printGraph(model.graph), before);
      equal(once.size, 1);
      equal(both.size, 2);
      const [one] = [...once.values()];
      deepEqual(both.get(one!.inputValue), one);
      const other = [...both.values()].find(({ inputValue }) => inputValue !== one!.inputValue)!;
      deepEqual([one!.rows, other.rows], [5, 10]);
      deepEqual([...other.meanSquare], [...one!.meanSquare]);
      deepEqual(
        [...other.max],
        [...one!.min].map((value) => -value),
      );
      equal(one!.samples!.length, 64);
    });
  }

  it('sorts both branches by it, whose weights they share', async () => {
    const model = merged();
    const analysis = analyze(model);
    const stats = await calibrate({ model, analysis, feeds: [feed(true)], createSession: createOrtSession });
    const recipe = withSettings(findRecipe('w4a4-g128'), ['outliers.channels=16']);
    const plan = makePlan(analysis, stats, recipe, model);
    deepEqual(
      plan.inputs.map(({ outlierChannels, notes }) => [
        outlierChannels,
        notes.filter((note) => /statistics/.test(note)),
      ]),
      [
        [16, []],
        [16, []],
      ],
    );
    equal(plan.inputs[0]!.order, plan.inputs[1]!.order);
    applyPlan(model, plan, analysis);
    for (const flag of [true, false]) {
      const measured = sqnr(await runOf(merged(), feed(flag)), await runOf(model, feed(flag)));
      ok(measured > 25, `${flag}: ${measured.toFixed(1)} dB`); // 16 dB with the strong channels among the others
    }
  });
});
