/**
 * Decides about smoothing (SmoothQuant, arXiv 2211.10438): the factors of every input, and where their inverses go so that nothing is
 * left to do at run time. An input is smoothed only if what makes its channels can take the division over exactly.
 */
import { usedOnlyBy } from '../analyze/activations.js';
import type { Analysis, AttentionSite, LinearSite } from '../analyze/sites.js';
import type { ChannelStats } from '../calibrate/stats.js';
import { rowReader, type WeightSource } from '../pack/rows.js';
import { neededElsewhere, type ProducerDecision } from './producers.js';
import type { Batch } from './resolve-sites.js';
import { searchAlpha, type RowShape } from './search-alpha.js';
import type { Steps } from './steps.js';

/** An input of which all is decided but its factors. */
export interface UnsmoothedInput {
  readonly batch: Batch;
  readonly producer: ProducerDecision;
  readonly shape: RowShape;
  readonly stats: readonly ChannelStats[] | undefined;
}

export interface Smoothing {
  /** s_j by natural channel. */
  readonly factors: ReadonlyMap<Batch, Float32Array>;
  /** Divisors of the rows of layers that make smoothed channels. */
  readonly rows: ReadonlyMap<LinearSite, Float32Array>;
  /** What was done, or why nothing could be. */
  readonly notes: ReadonlyMap<Batch, string>;
}

/** Where the division goes: into the norm, or into the rows of a layer; `share` makes factors equal that one row serves. */
interface Fold {
  readonly layer?: LinearSite;
  readonly rowsOf?: (factors: Float32Array) => Float32Array;
  readonly share?: (maxima: Float32Array) => void;
  readonly note?: string;
}

/** The paper's lower bound of both maxima. */
const smallestMaximum = 1e-5;

/**
 * Goes from the last input to the first: the factors of down_proj's input change the rows of up_proj, and so the weight maxima that the
 * factors of the norm in front are made of.
 */
export function* decideSmoothing(
  inputs: readonly UnsmoothedInput[],
  analysis: Analysis,
  quantized: ReadonlySet<LinearSite>,
): Steps<Smoothing> {
  const factors = new Map<Batch, Float32Array>();
  const rows = new Map<LinearSite, Float32Array>();
  const notes = new Map<Batch, string>();
  for (const [done, input] of [...inputs].reverse().entries()) {
    const { batch, stats } = input;
    const settings = batch.settings.smooth;
    if (settings) yield { stage: 'smooth', done: done + 1, total: inputs.length };
    if (!settings || (settings.at === 'norms' && batch.group.producer.kind !== 'norm')) continue;
    const fold = stats ? foldOf(input, analysis, quantized) : 'there are no calibration statistics for this input';
    if (typeof fold === 'string') {
      notes.set(batch, `not smoothed: ${fold}`);
      continue;
    }
    const [own] = stats as readonly [ChannelStats];
    const sources = batch.members.map(({ site }) => sourceOf(site, rows.get(site)));
    const activations = own.absMax.slice();
    const weights = columnMaxima(sources, batch.group.K);
    fold.share?.(activations);
    fold.share?.(weights);
    const candidate = (alpha: number) => smoothingFactors(activations, weights, alpha);
    const found =
      settings.alpha === 'search'
        ? yield* searchAlpha(own, batch, sources, input.shape, candidate)
        : { factors: candidate(settings.alpha), note: `smoothed, alpha ${settings.alpha}` };
    notes.set(batch, found.factors && fold.note ? `${found.note}; ${fold.note}` : found.note);
    if (!found.factors) continue;
    factors.set(batch, found.factors);
    if (fold.layer) rows.set(fold.layer, fold.rowsOf?.(found.factors) ?? found.factors);
  }
  return { factors, rows, notes };
}

/**
 * s_j = max|x_j|^alpha / max|w_j|^(1 − alpha). A channel that was always zero in calibration keeps factor 1, where the formula would
 * make the weights behind it tiny and the channel, should it ever wake, huge.
 */
export function smoothingFactors(activations: Float32Array, weights: Float32Array, alpha: number): Float32Array {
  return activations.map((activation, k) =>
    activation === 0
      ? 1
      : Math.max(activation, smallestMaximum) ** alpha / Math.max(weights[k]!, smallestMaximum) ** (1 - alpha),
  );
}

/** What smoothing leaves of the statistics of an input: all channels divided. */
export function smoothedStats(stats: ChannelStats, factors: Float32Array): ChannelStats {
  return {
    ...stats,
    meanSquare: stats.meanSquare.map((value, k) => value / factors[k]! ** 2),
    absMean: stats.absMean.map((value, k) => value / factors[k]!),
    min: stats.min.map((value, k) => value / factors[k]!),
    max: stats.max.map((value, k) => value / factors[k]!),
    absMax: stats.absMax.map((value, k) => value / factors[k]!),
  };
}

function sourceOf({ weight, layout }: LinearSite, rows: Float32Array | undefined): WeightSource {
  return { weight, layout, ...(rows ? { smooth: { rows } } : {}) };
}

/** max |w| of each input channel over all rows of all layers. */
function columnMaxima(sources: readonly WeightSource[], K: number): Float32Array {
  const maxima = new Float32Array(K);
  for (const source of sources) {
    const [first, second] = source.weight.dims as [number, number];
    const read = rowReader(source);
    for (let n = 0; n < (source.layout === 'NK' ? first : second); n++) {
      const row = read(n);
      for (let k = 0; k < K; k++) maxima[k] = Math.max(maxima[k]!, Math.abs(row[k]!));
    }
  }
  return maxima;
}

/** Where the division of an input can go, or why nowhere. */
function foldOf(
  { batch, producer: decided }: UnsmoothedInput,
  { linears }: Analysis,
  quantized: ReadonlySet<LinearSite>,
): Fold | string {
  const { input, producer } = batch.group;
  const shared = batch.members.find(({ site }) =>
    linears.some((other) => other.weightValue && other.weightValue === site.weightValue && other.x !== site.x),
  );
  if (shared) return `${shared.site.name} shares its weight with a layer that reads another input`;
  if (neededElsewhere(input, batch)) return `"${input.name}" is also needed elsewhere`;
  if (decided.decision === 'float') return 'its products quantize it themselves';
  if (producer.kind === 'norm') return decided.decision === 'fuse-norm' ? {} : 'its norm is not rewritten';
  if (producer.kind === 'attention') return foldIntoValues(producer.attention, quantized);
  if (producer.kind === 'other')
    return 'what makes it is neither a norm, nor a layer with a gate, ReLU or attention behind it';
  const site = producer.kind === 'gate' ? producer.gate : producer.act;
  // silu and gelu bend: only relu lets a positive factor through.
  if (producer.kind === 'act' && site.activation !== 'relu')
    return `it comes from ${site.activation}, which is not homogeneous`;
  const made = producer.kind === 'gate' ? producer.gate.up : producer.act.x;
  const layer = linears.find((each) => each.y === made);
  if (!layer) return `"${made.name}" does not come straight from a linear layer`;
  if (layer.N !== batch.group.K)
    return `${layer.name} makes ${layer.N} channels, which are repeated for ${batch.group.K}`;
  if (!quantized.has(layer)) return `${layer.name} stays float`;
  if (!usedOnlyBy(made, site.nodes)) return `"${made.name}" is used outside of ${site.name}`;
  return { layer };
}

/** Rows of v: query heads that share a value head share its factors. */
function foldIntoValues(attention: AttentionSite, quantized: ReadonlySet<LinearSite>): Fold | string {
  const { v, heads, kvHeads, headSize, valueRow, headOrderReason } = attention;
  if (headOrderReason) return headOrderReason;
  if (!v || !heads || !kvHeads || !headSize || valueRow === undefined) return 'its attention is not known';
  if (!quantized.has(v)) return `${v.name} stays float`;
  const sharing = heads / kvHeads;
  const channel = (kv: number, head: number, i: number) => (kv * sharing + head) * headSize + i;
  const each = (visit: (kv: number, i: number) => void) => {
    for (let kv = 0; kv < kvHeads; kv++) for (let i = 0; i < headSize; i++) visit(kv, i);
  };
  return {
    layer: v,
    note: 'a value cache holds divided channels',
    share: (maxima) => {
      each((kv, i) => {
        let most = 0;
        for (let head = 0; head < sharing; head++) most = Math.max(most, maxima[channel(kv, head, i)]!);
        for (let head = 0; head < sharing; head++) maxima[channel(kv, head, i)] = most;
      });
    },
    rowsOf: (factors) => {
      const rows = new Float32Array(v.N).fill(1);
      each((kv, i) => (rows[valueRow + kv * headSize + i] = factors[channel(kv, 0, i)]!));
      return rows;
    },
  };
}
