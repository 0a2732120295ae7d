/**
 * Models of real shapes for measurements: every layer has the weights of the first one, so that a file holds one layer however many
 * the model has. A session loads each layer's weights into memory of their own: time and memory are those of the whole model.
 */
import type { ChannelStats } from '../graph-rewrite/calibrate/stats.js';
import { analyze, applyPlan, makePlan, type Recipe } from '../graph-rewrite/index.js';
import { byteLength, type KnownDType } from '../graph-rewrite/onnx/dtype.js';
import type { Model, Tensor } from '../graph-rewrite/ir/index.js';
import { needsStatistics } from '../graph-rewrite/recipes/index.js';
import { buildLlama } from './build-llama.js';
import type { LlamaConfig } from './llama-config.js';
import { randomSource, type FloatType } from './weights.js';

/**
 * A decoder with random weights, rewritten by `recipe` if there is one. Channels are sorted by made-up statistics, the same for inputs of
 * the same width; weights must be rounded to nearest (`weight.rounding=rtn`).
 */
export function buildStack(config: LlamaConfig, dtype: FloatType, recipe?: Recipe): Model {
  const model = buildLlama(config, randomSource(1), { dtype });
  shareLayers(model);
  if (!recipe) return model;
  const analysis = analyze(model);
  const stats = new Map(analysis.inputs.map(({ input, K }) => [input.name, madeUpStats(input.name, K)]));
  applyPlan(model, makePlan(analysis, needsStatistics(recipe) ? stats : undefined, recipe, model), analysis);
  separate(model);
  return model;
}

/** Gives every layer the first one's tensors, whose bytes are made once. */
function shareLayers(model: Model): void {
  const first = new Map<string, Tensor>();
  for (const value of [...model.graph.initializers()]) {
    const slot = value.name.replace(/layers\.\d+/, 'layers.0');
    const tensor = first.get(slot) ?? remembered(value.initializer!);
    first.set(slot, tensor);
    value.initializer = tensor;
  }
}

function remembered(tensor: Tensor): Tensor {
  let made: Uint8Array | undefined;
  const bytes = () => (made ??= tensor.bytes());
  const { dtype, dims } = tensor;
  const size = byteLength(
    dtype as KnownDType,
    dims.reduce((a, b) => a * b, 1),
  );
  return {
    ...{ dtype, dims, byteLength: size, bytes },
    read: (start, length) => bytes().subarray(start, start + length),
  };
}

/** The rewriter stores equal constants once in the graph; here each layer needs its own. */
function separate(model: Model): void {
  for (const value of [...model.graph.initializers()]) {
    const [, ...others] = value.uses.filter(
      ({ node }) => node.domain === 'lowbit' && !node.is('QuantKvAttention', 'lowbit'),
    );
    if (value.initializer!.byteLength === 0) continue;
    for (const { node, index } of others) {
      node.setInput(index, model.graph.addInitializer(`${node.name}/${index}`, value.initializer!));
    }
  }
}

function madeUpStats(inputValue: string, channels: number): ChannelStats {
  const wave = Float64Array.from({ length: channels }, (_, i) => 1 + Math.sin(i * 12.9898) ** 2 * ((i * 7919) % 97));
  const max = Float32Array.from(wave);
  return {
    inputValue,
    channels,
    rows: 1,
    meanSquare: wave,
    absMean: wave,
    ...{ min: max.map((each) => -each), max, absMax: max },
  };
}
