/**
 * The models whose perplexity a GPU has to reproduce: bookworm-11m rewritten by every row of the accuracy table and some recipes more,
 * plain and with injected outliers. One at a time, so that a script can write many of them at once.
 * usage: node dist/test/gpu/ladder.js list
 *        node dist/test/gpu/ladder.js floats FOLDER       writes the float models
 *        node dist/test/gpu/ladder.js write FOLDER NAME   rewrites the one of this name
 */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { saveModel } from '../../graph-rewrite/onnx/write.js';
import { materializeBookworm } from '../../models/bookworm.js';
import { injectOutliers } from '../../models/inject-outliers.js';
import { rewriteModel, type Weights } from '../e2e/bookworm.js';
import { ladder } from '../e2e/expectations.js';

interface Step {
  readonly recipe: string;
  readonly set: readonly string[];
  readonly target?: string;
}

const rtn = ['weight.rounding=rtn'];
const more: readonly Step[] = [
  { recipe: 'atom-w4a4', set: rtn, target: 'sm90' },
  { recipe: 'atom-w4a4', set: [], target: 'sm90' },
  { recipe: 'atom-w4a4', set: ['weight.scaleConstraint=m2'], target: 'sm90' },
  { recipe: 'zeroquant-fp-w4a8', set: ['weight.scaleConstraint=m2'] },
  { recipe: 'zeroquant-fp-w8a8', set: [] },
  { recipe: 'smoothquant-w8a8', set: [] },
  { recipe: 'llm-int8', set: [] },
];

const steps: readonly Step[] = [...ladder, ...more];
const models = new Map<string, { weights: Weights; step: Step }>();
for (const weights of ['plain', 'injected'] as const) {
  for (const step of steps) {
    const words = [step.recipe, ...(step.target ? [step.target] : []), ...step.set];
    models.set(`${weights}_${words.join('_').replace(/[^\w.-]/g, '-')}`, { weights, step });
  }
}

const [command, folder, name] = process.argv.slice(2);
const float = (weights: Weights) => join(folder!, `${weights}_float32.onnx`);
const wanted = name === undefined ? undefined : models.get(name);

if (command === 'list') {
  console.log([...models.keys()].join('\n'));
} else if (command === 'floats' && folder !== undefined) {
  mkdirSync(folder, { recursive: true });
  const model = loadModel(await materializeBookworm('built', folder));
  await saveModel(model, float('plain'));
  injectOutliers(model);
  await saveModel(model, float('injected'));
} else if (command === 'write' && wanted !== undefined && existsSync(float(wanted.weights))) {
  const { seconds } = await rewriteModel(float(wanted.weights), join(folder!, `${name}.onnx`), {
    ...wanted.step,
    threads: 2, // many are written side by side
  });
  console.log(`${name}: ${seconds.toFixed(1)} s`);
} else {
  console.error(
    'ladder: expected list, floats FOLDER, or write FOLDER NAME behind them, with a NAME that list prints.',
  );
  process.exitCode = 2;
}
