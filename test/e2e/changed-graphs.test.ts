/**
 * The zoo's graphs, changed at random where nodes meet (a factor, another reader, one more output), then rewritten: whatever still runs in
 * float gives the same in 8 bits, or is refused. Patterns that hold for what exporters write, and not for what is nearly that, show here.
 */
import { ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, loadModel, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { tensorOf, type Model, type Node } from '../../graph-rewrite/ir/index.js';
import type { Feeds } from '../../graph-rewrite/lm/session.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { LowbitError } from '../../ops/common/errors.js';
import { Random } from '../helpers/random.js';
import { randomStats } from '../helpers/stats.js';
import { sqnr, zooFeeds, zooNames, zooPath } from '../helpers/zoo.js';

const recipes: readonly (readonly [string, readonly string[]])[] = [
  ['w8a8', []],
  ['w8a8', ['outliers.channels=16', 'oReorder=global', 'kv.bits=8']],
  ['w8a8', ['outliers.channels=16', 'oReorder=head']],
  ['smoothquant-w8a8', ['smooth.at=all']],
  ['rptq-w4a8', ['weight.format=s8', 'weight.rounding=rtn']],
];

/** Changes one place of a graph. @returns what was done */
type Change = (model: Model, node: Node, random: Random) => string | undefined;

let count = 0;
const fresh = (): string => `changed${count++}`;

/** A node in front of one input of another. */
const inFront: Change = ({ graph }, node, random) => {
  const inputs = node.inputs.flatMap((value, i) => (value?.producer && !value.constant() ? [i] : []));
  const index = inputs[random.int(0, inputs.length - 1)];
  if (index === undefined) return undefined;
  const opType = ['Mul', 'Add', 'Div', 'Neg', 'Identity', 'Abs', 'Tanh'][random.int(0, 6)]!;
  const number = graph.addInitializer(fresh(), tensorOf(Float32Array.of([0.5, 1.3, 2][random.int(0, 2)]!), []));
  const operands = [node.input(index), ...(/Mul|Add|Div/.test(opType) ? [number] : [])];
  const made = graph.addNode({ opType, name: fresh(), inputs: operands, outputs: [fresh()] }, { before: node });
  node.setInput(index, made.output(0));
  return `${opType} in front of input ${index} of ${node.opType} "${node.name}"`;
};

const asOutput: Change = ({ graph }, node) => {
  const value = node.output(0);
  if (!value || value.isGraphOutput) return undefined;
  graph.addOutput(value);
  return `${node.opType} "${node.name}" is an output`;
};

const withReader: Change = ({ graph }, node) => {
  const value = node.output(0);
  if (!value) return undefined;
  graph.addOutput(graph.addNode({ opType: 'Abs', name: fresh(), inputs: [value], outputs: [fresh()] }).output(0)!);
  return `another reader of ${node.opType} "${node.name}"`;
};

const changes = [inFront, inFront, asOutput, withReader];

function changed(name: string, seed: number): { model: Model; what: string } {
  const random = new Random(`${name} ${seed}`);
  const model = loadModel(zooPath(name));
  const nodes = [...model.graph.nodes];
  count = 0;
  const done = Array.from({ length: random.int(1, 3) }, () =>
    changes[random.int(0, changes.length - 1)]!(model, nodes[random.int(0, nodes.length - 1)]!, random),
  );
  return { model, what: done.filter((each) => each !== undefined).join('; ') };
}

/** Statistics of a moderate spread: factors of smoothing between 1 and 4. */
function statistics(analysis: ReturnType<typeof analyze>) {
  const stats = randomStats(analysis);
  for (const [name, each] of stats) {
    const absMax = each.absMax.map((value) => 1 + 3 * value);
    stats.set(name, { ...each, absMax, min: absMax.map((value) => -value), max: absMax });
  }
  return stats;
}

async function outputsOf(model: Model, feeds: Feeds): Promise<ReadonlyMap<string, Float32Array>> {
  const session = await InferenceSession.create(serializeModel(model), { intraOpNumThreads: 1, logSeverityLevel: 4 });
  try {
    const all = { ...feeds };
    // A quantized cache begins empty too.
    for (const input of session.inputMetadata)
      if (input.isTensor && all[input.name]?.type !== input.type) {
        const empty = input.type === 'uint8' ? new Uint8Array(0) : new Uint16Array(0);
        all[input.name] = new Tensor(input.type as 'uint8', empty as Uint8Array, [
          2,
          Number(input.shape[1]),
          0,
          Number(input.shape[3]),
        ]);
      }
    const results = Object.entries(await session.run(all)) as [string, Tensor][];
    return new Map(
      results.flatMap(([name, { type, data }]) => (type === 'float32' ? [[name, data as Float32Array]] : [])),
    );
  } finally {
    await session.release();
  }
}

const meaningful = (values: Float32Array): boolean =>
  values.every(Number.isFinite) && values.some((value) => value !== 0);

describe('e2e: changed graphs', function () {
  this.timeout(120_000);
  for (const name of zooNames)
    it(`${name}: as in float, or refused`, async () => {
      for (let seed = 0; seed < 8; seed++) {
        const { model, what } = changed(name, seed);
        const feeds = zooFeeds(model, { past: 0 });
        const expected = await outputsOf(model, feeds).catch(() => undefined); // not every change leaves a model
        if (!expected) continue;
        const [recipe, settings] = recipes[seed % recipes.length]!;
        const rewritten = changed(name, seed).model;
        try {
          const analysis = analyze(rewritten);
          const wanted = withSettings(findRecipe(recipe), settings);
          applyPlan(rewritten, makePlan(analysis, statistics(analysis), wanted, rewritten), analysis);
        } catch (error) {
          if (error instanceof LowbitError && error.code === 'input') continue;
          throw new Error(`${recipe} ${settings.join(' ')}: ${what}`, { cause: error });
        }
        const actual = await outputsOf(rewritten, feeds);
        for (const [output, values] of expected) {
          // Caches hold values in the order and with the factors of their layer.
          if (!meaningful(values) || !actual.has(output) || /present/.test(output)) continue;
          const measured = sqnr(values, actual.get(output)!);
          ok(measured >= 14, `${output} has ${measured.toFixed(1)} dB; ${recipe} ${settings.join(' ')}: ${what}`);
        }
      }
    });
});
