/**
 * Gives a model outlier channels without changing what it computes: a channel is scaled up by f where it is produced and its weight
 * column scaled down by f where it is used. Large models have such channels by themselves; models/bookworm-11m/README.md has the rule.
 */
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { inputError, usageError } from '../ops/common/errors.js';
import { analyze, type Analysis, type LinearSite, type NormSite } from '../graph-rewrite/analyze/index.js';
import { loadModel } from '../graph-rewrite/onnx/read.js';
import { saveModel } from '../graph-rewrite/onnx/write.js';
import type { Model, Value } from '../graph-rewrite/ir/index.js';
import { reportFailure } from '../graph-rewrite/cli/failure.js';
import { ScaledTensors } from './scaled-tensors.js';

/** Channel i of layer l is (step·i + shift·l + start) mod width, for i below count. */
interface ChannelRule {
  readonly step: number;
  readonly shift: number;
  readonly start: number;
  readonly count: number;
}

const inputNorm: ChannelRule = { step: 61, shift: 17, start: 5, count: 6 };
const postAttentionNorm: ChannelRule = { step: 67, shift: 29, start: 3, count: 6 };
const mlp: ChannelRule = { step: 83, shift: 31, start: 7, count: 12 };
/** One channel in each of the first two value heads, scaled by f/2. */
const valueHeads: readonly ChannelRule[] = [
  { step: 0, shift: 13, start: 9, count: 1 },
  { step: 0, shift: 23, start: 21, count: 1 },
];

function channels(rule: ChannelRule, layer: number, width: number): number[] {
  return Array.from({ length: rule.count }, (_, i) => (rule.step * i + rule.shift * layer + rule.start) % width);
}

const attentionRoles = new Set(['q_proj', 'k_proj', 'v_proj', 'qkv_proj']);
const mlpRoles = new Set(['gate_proj', 'up_proj', 'gate_up_proj', 'fc1']);

/**
 * Edits the model in place; weights are scaled when they are saved.
 * @param factor f, at least 1; powers of two keep every weight exact
 * @returns how many channels were scaled
 */
export function injectOutliers(model: Model, factor = 32): number {
  const analysis = analyze(model);
  const scaled = new ScaledTensors();
  let count = 0;
  for (const { input, linears, producer, K } of analysis.inputs) {
    const first = linears[0];
    if (first?.layer === undefined) continue;
    const feeds = (roles: ReadonlySet<string>): boolean => linears.every((site) => roles.has(site.role));
    if (producer.kind === 'norm' && (feeds(attentionRoles) || feeds(mlpRoles))) {
      requireNoOtherUser(input, linears);
      const chosen = channels(feeds(attentionRoles) ? inputNorm : postAttentionNorm, first.layer, K);
      scaleNorm(scaled, producer.norm, chosen, factor);
      for (const site of linears) scaled.channels(weightOf(site), columnAxis(site), chosen, 1 / factor);
      count += chosen.length;
    } else if (producer.kind === 'gate' && first.role === 'down_proj') {
      const chosen = channels(mlp, first.layer, K);
      const up = upRows(analysis, first.layer, K);
      scaled.channels(
        weightOf(up.site),
        rowAxis(up.site),
        chosen.map((row) => up.start + row),
        factor,
      );
      scaled.channels(weightOf(first), columnAxis(first), chosen, 1 / factor);
      count += chosen.length;
    }
  }
  count += scaleValueHeads(scaled, analysis, factor / 2);
  if (count === 0) {
    throw inputError(
      model.path ?? 'model',
      'no decoder blocks found, expected norms that feed q, k, v and gate, up, and a down_proj',
      'See rewrite inspect.',
    );
  }
  scaled.apply();
  return count;
}

function scaleNorm(scaled: ScaledTensors, norm: NormSite, chosen: readonly number[], factor: number): void {
  if (norm.weightOffset !== 0) {
    throw inputError(norm.name, 'the norm multiplies by 1 + weight, expected a plain weight', 'Choose another model.');
  }
  scaled.channels(norm.weight, 0, chosen, factor);
  if (norm.bias) scaled.channels(norm.bias, 0, chosen, factor);
}

function scaleValueHeads(scaled: ScaledTensors, { attentions }: Analysis, factor: number): number {
  let count = 0;
  for (const { v, o, heads, kvHeads, headSize, valueRow = 0 } of attentions) {
    if (!v || !o || v.layer === undefined || !heads || !kvHeads || !headSize) continue;
    for (const [head, rule] of valueHeads.slice(0, kvHeads).entries()) {
      const inHead = channels(rule, v.layer, headSize);
      scaled.channels(
        weightOf(v),
        rowAxis(v),
        inHead.map((channel) => valueRow + head * headSize + channel),
        factor,
      );
      // Query heads share a value head in runs: heads / kvHeads of them read the same one.
      const sharing = heads / kvHeads;
      const columns = Array.from({ length: sharing }, (_, j) => (head * sharing + j) * headSize);
      scaled.channels(
        weightOf(o),
        columnAxis(o),
        columns.flatMap((start) => inHead.map((c) => start + c)),
        1 / factor,
      );
      count += inHead.length;
    }
  }
  return count;
}

/** The layer that makes the `up` half of a gated MLP, and the row its channels start at. */
function upRows({ linears }: Analysis, layer: number, width: number): { site: LinearSite; start: number } {
  const site = linears.find(
    (each) => each.layer === layer && (each.role === 'up_proj' || each.role === 'gate_up_proj'),
  );
  if (!site)
    throw inputError(`layer ${layer}`, 'no up_proj found, expected one in front of down_proj', 'See rewrite inspect.');
  return { site, start: site.role === 'gate_up_proj' ? width : 0 };
}

/** A channel that something else reads as well would reach it scaled. */
function requireNoOtherUser(value: Value, linears: readonly LinearSite[]): void {
  const stranger = value.uses.find(({ node }) => !linears.some((site) => site.nodes.includes(node)));
  if (stranger) {
    throw inputError(
      value.name,
      `is also read by "${stranger.node.name}", expected linear layers only`,
      'Choose another model.',
    );
  }
}

function weightOf(site: LinearSite): Value {
  if (
    site.bias &&
    (site.role === 'up_proj' || site.role === 'v_proj' || site.role === 'qkv_proj' || site.role === 'gate_up_proj')
  ) {
    throw inputError(site.name, 'the layer has a bias, expected none', 'Choose a model of the LLaMA family.');
  }
  if (!site.weightValue)
    throw inputError(site.name, 'the weight is not constant, expected a constant', 'Fold constants first.');
  return site.weightValue;
}

/** Axis of the weight's input channels, and of its output channels. */
const columnAxis = (site: LinearSite): 0 | 1 => (site.layout === 'KN' ? 0 : 1);
const rowAxis = (site: LinearSite): 0 | 1 => (site.layout === 'KN' ? 1 : 0);

async function main(argv: readonly string[]): Promise<number> {
  const program = new Command('inject-outliers')
    .argument('<in>', 'an ONNX model')
    .argument('<out>', 'where the same function with outlier channels goes')
    .option('--factor <f>', 'how far the channels stand out', '32')
    .option('--force', 'replace an existing output')
    .showHelpAfterError();
  program.parse([...argv], { from: 'user' });
  const [input = '', output = ''] = program.args;
  const { factor, force = false } = program.opts<{ factor: string; force?: boolean }>();
  try {
    if (!(Number(factor) >= 1 && Number.isFinite(Number(factor)))) {
      throw usageError('--factor', `${JSON.stringify(factor)} given, expected a number of at least 1`);
    }
    const model = loadModel(input);
    const count = injectOutliers(model, Number(factor));
    const { bytes } = await saveModel(model, output, { force });
    console.error(`${output}: ${count} channels scaled by ${factor}, ${bytes} bytes`);
    return 0;
  } catch (error) {
    return reportFailure(error, false);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(process.argv.slice(2));
