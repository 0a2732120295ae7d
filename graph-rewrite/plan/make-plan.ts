/** Turns facts and a recipe into decisions. */
import { inputError } from '../../ops/common/errors.js';
import type { Analysis, AttentionSite, GateSite, LinearSite } from '../analyze/sites.js';
import type { Model } from '../ir/index.js';
import type { ChannelStats } from '../calibrate/stats.js';
import type { Recipe, SiteSettings } from '../recipes/recipe.js';
import { lorcSettings } from '../recipes/resolve.js';

import { decideCaches } from './caches.js';
import { fingerprint } from './fingerprint.js';
import { decideMerges } from './merge.js';
import { channelOrder, embed, headOrder, rank } from './order.js';
import {
  encodeFactors,
  encodeOrder,
  recipeKey,
  shortfalls,
  type Plan,
  type PlanCache,
  type PlanInput,
  type PlanSite,
  type PlanWeight,
  type QuantizedSite,
} from './plan.js';
import { decideProducer, type Claims, type ProducerDecision } from './producers.js';
import { describeSite, resolveSites, type Batch } from './resolve-sites.js';
import { predictRounding } from './rounding.js';
import { fit } from './shrink.js';
import { packedBytes, predictBytes } from './sizes.js';
import { decideSmoothing, smoothedStats } from './smooth.js';
import { atOnce, type Steps } from './steps.js';

/** Calibration statistics by the name of the input value. */
export type StatsByValue = ReadonlyMap<string, ChannelStats>;

interface Orders {
  /** Of the input's channels. */
  readonly columns?: Int32Array;
  /** Of the rows of layers that produce the channels. */
  readonly rows: ReadonlyMap<LinearSite, Int32Array>;
  readonly notes: readonly string[];
}

/**
 * Decides everything about a model.
 * @param stats calibration statistics by input value; only recipes that sort channels need them
 * @throws input error if no layer can be quantized, with the nearest miss
 */
export function makePlan(analysis: Analysis, stats: StatsByValue | undefined, recipe: Recipe, model: Model): Plan {
  return atOnce(planSteps(analysis, stats, recipe, model));
}

/** The same, for {@link inTurns}. */
export function* planSteps(
  analysis: Analysis,
  stats: StatsByValue | undefined,
  recipe: Recipe,
  model: Model,
): Steps<Plan> {
  const { batches, kept } = resolveSites(analysis, recipe);
  const caches = decideCaches(analysis, recipe, model);
  const useful = caches?.some((cache) => cache.decision === 'quantize') ?? false;
  if (batches.length === 0 && !useful) throw nothingToDo(analysis, model, caches);
  const quantized = new Set(batches.flatMap((batch) => batch.members.map(({ site }) => site)));
  const claims: Claims = { quantized, producers: new Set(), adds: new Set(), caches: takenCaches(analysis, caches) };
  const statsOf = sharedStats(batches, stats);

  const inputs: PlanInput[] = [];
  const rowOrders = new Map<LinearSite, Int32Array>();
  const fusedGates: GateSite[] = [];
  const drafts = batches.map((batch) => {
    const { outliers, activation, weight } = batch.settings;
    const asked = orderMode(batch, recipe, quantized);
    const all = statsOf(batch);
    const notes = [...asked.notes];
    if (asked.mode !== 'none' && !all) notes.push(shortfalls.noStatistics);
    const mode = all ? asked.mode : 'none';
    const producer = decideProducer(batch, mode === 'global', analysis, claims);
    const fitted = fit(
      batch.group.K,
      mode === 'global' ? (outliers?.channels ?? 0) : 0,
      activation.groupSize || weight.groupSize,
    );
    const shape = { ...fitted, sorted: mode === 'global' ? outliers! : undefined };
    return { batch, stats: all, notes, mode, producer, fitted, shape };
  });
  const smoothing = yield* decideSmoothing(drafts, analysis, quantized);
  for (const { batch, stats: all, notes, mode, producer, fitted } of drafts) {
    yield undefined;
    const { activation } = batch.settings;
    const factors = smoothing.factors.get(batch);
    const smoothNote = smoothing.notes.get(batch);
    const smooth = factors ? all?.map((each) => smoothedStats(each, factors)) : all;
    const order = makeOrders(mode, producer, batch, smooth);
    for (const [site, rows] of order.rows) rowOrders.set(site, rows);
    if (producer.decision === 'fuse-gate' && batch.group.producer.kind === 'gate')
      fusedGates.push(batch.group.producer.gate);
    const { decision, producer: name, residual, floatOutput } = producer;
    inputs.push({
      id: batch.id,
      value: batch.group.input.name,
      channels: batch.group.K,
      decision,
      ...(name === undefined ? {} : { producer: name }),
      format: activation.format,
      groupSize: activation.groupSize === 0 ? 0 : fitted.groupSize,
      clip: activation.clip,
      ...(activation.threshold ? { threshold: activation.threshold } : {}),
      outlierChannels: fitted.outlierChannels,
      reorder: mode === 'head' ? 'fold-heads' : producer.reorder,
      ...(order.columns ? { order: encodeOrder(order.columns) } : {}),
      ...energyOf(batch, smooth),
      ...(factors ? { smooth: encodeFactors(factors) } : {}),
      ...(residual ? { residual } : {}),
      ...(floatOutput ? { floatOutput } : {}),
      sites: batch.members.map(({ site }) => site.name),
      notes: [
        ...(smoothNote === undefined ? [] : [smoothNote]),
        ...notes,
        ...order.notes,
        ...producer.notes,
        ...fitted.notes,
      ],
    });
  }
  const sites = new Map<LinearSite, PlanSite>(kept);
  const terms = new Set<string>();
  for (const { batch, stats: all, fitted } of drafts) {
    const merges = decideMerges(batch, recipe, fusedGates, analysis.attentions, claims.caches);
    for (const { site, settings } of batch.members)
      sites.set(
        site,
        quantizedSite(site, batch.id, settings, fitted, {
          rowOrder: rowOrders.get(site),
          rowSmooth: smoothing.rows.get(site),
          merge: merges.get(site),
          terms,
          ran: all !== undefined,
        }),
      );
  }
  const ordered = analysis.linears.map((site) => sites.get(site)!);
  return {
    format: 1,
    model: { sha256: fingerprint(model, analysis), path: model.path ?? '' },
    ...{ recipe, inputs, sites: ordered },
    ...(caches ? { caches } : {}),
    predicted: {
      ...predictBytes(model, analysis, inputs, ordered),
      ...predictRounding(recipe, analysis, inputs, ordered),
    },
  };
}

/** Attentions whose cache the plan quantizes. */
function takenCaches({ caches }: Analysis, planned: readonly PlanCache[] = []): Claims['caches'] {
  return new Map(
    caches.flatMap(({ attention, cached }, i) =>
      cached && planned[i]?.decision === 'quantize' ? [[attention, cached]] : [],
    ),
  );
}

function quantizedSite(
  site: LinearSite,
  input: string,
  settings: SiteSettings,
  fitted: ReturnType<typeof fit>,
  {
    rowOrder,
    rowSmooth,
    merge,
    terms,
    ran,
  }: {
    rowOrder: Int32Array | undefined;
    rowSmooth: Float32Array | undefined;
    merge: string | undefined;
    /** Merged products whose low-rank term has been counted. */
    terms: Set<string>;
    /** Whether calibration has seen rows of its input. */
    ran: boolean;
  },
): QuantizedSite {
  const groupSize = settings.weight.groupSize === 0 ? 0 : fitted.groupSize;
  // A branch of an If may be one that the calibration data do not take.
  const inside = settings.weight.rounding === 'gptq' && site.graph !== site.graph.model.graph && !ran;
  const rounding = inside ? 'rtn' : settings.weight.rounding;
  const lorc = lorcSettings(settings);
  const weight: PlanWeight = {
    ...{ ...settings.weight, groupSize, outlierChannels: fitted.outlierChannels, rounding },
    ...(lorc ? { lorc: { ...lorc, rank: Math.min(lorc.rank, site.K, site.N) } } : {}),
  };
  const sharedDown = merge !== undefined && terms.has(merge);
  if (merge !== undefined) terms.add(merge);
  return {
    ...describeSite(site),
    ...{ decision: 'quantize', input, weight },
    ...(rowOrder ? { rowOrder: encodeOrder(rowOrder) } : {}),
    ...(rowSmooth ? { rowSmooth: encodeFactors(rowSmooth) } : {}),
    ...(merge === undefined ? {} : { merge }),
    bytes: packedBytes(site.K, site.N, weight, sharedDown),
    notes: inside ? [shortfalls.noRows] : [],
  };
}

/** The energy of an input's channels, where a layer that is rounded to nearest searches clip ratios by it. */
function energyOf(batch: Batch, all: readonly ChannelStats[] | undefined): Pick<PlanInput, 'energy'> {
  const wanted = batch.members.some(
    ({ settings: { weight } }) => weight.clipSearch === 'hessian' && weight.rounding === 'rtn',
  );
  return wanted && all ? { energy: encodeFactors(Float32Array.from(rank(all, 'mean-square'))) } : {};
}

type OrderMode = 'none' | 'global' | 'head';

/** How the recipe wants the channels of an input sorted. */
function orderMode(
  batch: Batch,
  recipe: Recipe,
  quantized: ReadonlySet<LinearSite>,
): { mode: OrderMode; notes: string[] } {
  if (!batch.settings.outliers || batch.settings.activation.format === 'none') return { mode: 'none', notes: [] };
  const attentionOutput = batch.members.some(({ site }) => site.role === 'o_proj');
  if (!attentionOutput || recipe.oReorder === 'global') return { mode: 'global', notes: [] };
  if (recipe.oReorder === 'none') return { mode: 'none', notes: ['natural order, as the recipe asks for o_proj'] };
  const reason = headObstacle(attentionOf(batch), quantized);
  return reason ? { mode: 'none', notes: [`no order inside heads: ${reason}`] } : { mode: 'head', notes: [] };
}

function headObstacle(attention: AttentionSite | undefined, quantized: ReadonlySet<LinearSite>): string | undefined {
  if (!attention) return 'its attention is not known';
  if (attention.headOrderReason) return attention.headOrderReason;
  return attention.v && quantized.has(attention.v) ? undefined : 'the layer that makes values stays float';
}

function attentionOf(batch: Batch): AttentionSite | undefined {
  const { producer } = batch.group;
  return producer.kind === 'attention' ? producer.attention : undefined;
}

function makeOrders(
  mode: OrderMode,
  producer: ProducerDecision,
  batch: Batch,
  all: readonly ChannelStats[] | undefined,
): Orders {
  const none: Orders = { rows: new Map(), notes: [] };
  const { outliers } = batch.settings;
  if (mode === 'none' || !outliers || !all || producer.decision === 'float') return none;
  if (mode === 'global') {
    const columns = channelOrder(all, outliers);
    return { columns, rows: new Map(producer.folded.map((site) => [site, columns])), notes: [] };
  }
  const { v, heads, kvHeads, headSize, valueRow } = attentionOf(batch)!;
  const { columns, values } = headOrder(rank(all, outliers.rankBy), heads!, kvHeads!, headSize!);
  return {
    columns,
    rows: new Map([[v!, embed(values, valueRow!, v!.N)]]),
    notes: ['order stays inside heads, so there are no outliers; a value cache holds channels in this order'],
  };
}

/** Statistics of a batch: its own input's, joined with those of inputs whose layers have the same weights (one packed copy serves all). */
function sharedStats(
  batches: readonly Batch[],
  stats: StatsByValue | undefined,
): (batch: Batch) => readonly ChannelStats[] | undefined {
  const weights = (batch: Batch) => batch.members.map(({ site }) => site.weightValue);
  return (batch) => {
    const own = new Set(weights(batch));
    const all = batches
      .filter((other) => other === batch || weights(other).some((weight) => weight && own.has(weight)))
      .flatMap((other) => stats?.get(other.group.input.name) ?? []);
    return all.length > 0 ? all : undefined;
  };
}

function nothingToDo(analysis: Analysis, model: Model, caches: readonly PlanCache[] | undefined): Error {
  const at = model.path ?? 'model';
  const [site] = analysis.linears;
  const [miss] = analysis.nearMisses;
  const again = model.metadata.has(recipeKey)
    ? 'The model has been rewritten already: start from the float model.'
    : '';
  if (site) {
    const why = site.reason ?? 'the recipe keeps it';
    const [cache] = caches ?? [];
    const attention = cache?.decision === 'keep' ? `"${cache.site}": ${cache.reason}` : 'there is no attention';
    return inputError(
      at,
      `none of its linear layers can be quantized (${analysis.linears.length}), the first is "${site.name}": ${why}` +
        (caches ? `; and no cache of keys and values: ${attention}` : ''),
      again || '`rewrite inspect` lists them; `rewrite recipes` shows what a recipe keeps.',
    );
  }
  const nearest = miss ? `The nearest miss is ${miss.node.opType} "${miss.node.name}": ${miss.reason}.` : '';
  return inputError(at, 'no linear layers, expected products with constant weights (MatMul, Gemm)', again || nearest);
}
