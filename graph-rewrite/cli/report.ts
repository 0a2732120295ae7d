/** What a rewrite did, for people: layers by what became of them, sizes, and what it took. */
import {
  explain,
  shortfalls,
  type BudgetReport,
  type Plan,
  type PlanCache,
  type PlanSite,
  type RoundingCost,
} from '../plan/index.js';
import type { RoundedLayer } from '../round/index.js';
import { formatBytes, formatSeconds, plural } from './ui/format.js';
import { table } from './ui/table.js';

export interface KeptLayer {
  readonly name: string;
  readonly reason: string;
}

export interface Bits {
  /** Bits per linear weight by the plan, and as written. */
  readonly predicted: number;
  readonly real: number;
}

export interface RewriteSummary {
  readonly model: string;
  readonly recipe: string;
  readonly input: { readonly bytes: number };
  /** `bytes` counts all files, `files` are absolute paths. */
  readonly output: { readonly path: string; readonly bytes: number; readonly files: readonly string[] };
  readonly sites: { readonly quantized: number; readonly kept: number };
  readonly kept: readonly KeptLayer[];
  /** What became of key and value caches, if the recipe is about them. */
  readonly caches?: readonly PlanCache[];
  readonly bitsPerWeight: Bits;
  /** With --budget. */
  readonly budget?: BudgetReport;
  /** With GPTQ or low-rank terms. */
  readonly rounding?: { readonly calibration?: string; readonly layers: readonly RoundedLayer[] };
  readonly seconds: number;
  readonly peakRssBytes: number;
}

/** Layers that stay float, with their reasons. */
export function keptLayers(plan: Plan): KeptLayer[] {
  return plan.sites.flatMap((each) => (each.decision === 'keep' ? [{ name: each.site, reason: each.reason }] : []));
}

/** The report after a model was written. */
export function describeResult(result: RewriteSummary, plan: Plan): string {
  const { input, output, bitsPerWeight, seconds, peakRssBytes } = result;
  const ratio = (100 * output.bytes) / input.bytes;
  return [
    sitesByOutcome(plan.sites),
    ...describeShortfalls(plan),
    ...(plan.caches ? ['', cachesByOutcome(plan.caches)] : []),
    ...(result.budget ? ['', describeBudget(result.budget)] : []),
    ...(result.rounding ? ['', describeRounding(result.rounding.layers)] : []),
    '',
    `${output.path}: ${formatBytes(output.bytes)}, ${ratio.toFixed(0)} % of the input's ${formatBytes(input.bytes)}`,
    ...(result.sites.quantized > 0
      ? [`linear weights: ${bitsPerWeight.real.toFixed(2)} bits each (planned ${bitsPerWeight.predicted.toFixed(2)})`]
      : []),
    `${formatSeconds(seconds)}, peak memory ${formatBytes(peakRssBytes)}`,
  ].join('\n');
}

/** Layers that are not all that the recipe makes of a layer. */
function describeShortfalls({ inputs, sites }: Plan): string[] {
  const notesOf = new Map(inputs.map(({ id, notes }) => [id, notes]));
  return Object.values(shortfalls).flatMap((note) => {
    const { length } = sites.filter(
      (site) => site.decision === 'quantize' && [...site.notes, ...(notesOf.get(site.input) ?? [])].includes(note),
    );
    return length > 0 ? [`${plural(length, 'layer')}: ${note}`] : [];
  });
}

/** What each group of layers loses on its own, the worst first, and which of them stay at 8 bits for it. */
function describeBudget({ budget, predicted, groups, cacheLoss }: BudgetReport): string {
  const nats = (loss: number): string => loss.toPrecision(3);
  const cache = cacheLoss === undefined ? '' : `, ${nats(cacheLoss)} of it the cache's`;
  return [
    ...(groups.length > 0
      ? [
          table(
            ['layers', 'loss, nats a token', 'at 8 bits'],
            [...groups]
              .sort((a, b) => b.loss - a.loss)
              .map(({ sites, loss, lossAt8Bits }) => [
                sites.join(', '),
                nats(loss),
                lossAt8Bits === undefined ? '-' : nats(lossAt8Bits),
              ]),
          ),
        ]
      : []),
    `predicted loss ${nats(predicted)} nats a token${cache}, budget ${budget}`,
  ].join('\n');
}

/**
 * What GPTQ gained, a product a row: the share of the output's energy on the calibration data that rounding costs. And what low-rank
 * terms did: the share of the weights' energy that rounding costs.
 */
function describeRounding(layers: readonly RoundedLayer[]): string {
  const percent = (share: number): string => `${(100 * share).toPrecision(3)} %`;
  const gain = (now: number, before: number): string => `${(100 * (1 - now / (before || 1))).toFixed(0)} %`;
  const byGptq = layers.flatMap(({ name, K, N, gptq }) =>
    gptq ? [[name, `${K}×${N}`, percent(gptq.loss), percent(gptq.nearestLoss), gain(gptq.loss, gptq.nearestLoss)]] : [],
  );
  const terms = layers.flatMap(({ name, K, N, lorc }) =>
    lorc
      ? [
          [
            ...[name, `${K}×${N}`, String(lorc.rank), percent(lorc.left), percent(lorc.error)],
            gain(lorc.left, lorc.error),
          ],
        ]
      : [],
  );
  return [
    ...(byGptq.length > 0 ? [table(['rounded by GPTQ', 'K×N', 'loss', 'to nearest', 'gain'], byGptq)] : []),
    ...(terms.length > 0 ? [table(['low-rank term', 'K×N', 'rank', 'weight error', 'without', 'gain'], terms)] : []),
  ].join('\n\n');
}

/** The report of a dry run: every layer, the decision, the reason. */
export function describePlan(plan: Plan): string {
  const { linearBytes, outputBytes, rounding } = plan.predicted;
  return [
    table(
      ['layer', 'role', 'K×N', 'becomes', 'name', 'how, or why not'],
      explain(plan).map((each) => [
        each.layer === undefined ? '-' : String(each.layer),
        each.role,
        each.shape,
        each.decision,
        each.site,
        each.reason,
      ]),
    ),
    ...(plan.budget ? ['', describeBudget(plan.budget)] : []),
    '',
    `predicted: linear weights ${formatBytes(linearBytes)}, model ${formatBytes(outputBytes)}`,
    ...(rounding ? [describeCost(rounding)] : []),
  ].join('\n');
}

function describeCost({ passes, hessianBytes, productBytes }: RoundingCost): string {
  if (passes === 0) return `low-rank terms: ${formatBytes(productBytes)} beside the model for the largest layer`;
  const held = formatBytes(hessianBytes + productBytes);
  return `GPTQ: ${passes} ${passes === 1 ? 'pass' : 'passes'} over the calibration data, ${held} beside the model (Hessians ${formatBytes(hessianBytes)}, see gptq.memory; the largest layer ${formatBytes(productBytes)})`;
}

function weightWords({ weight }: Extract<PlanSite, { decision: 'quantize' }>): string {
  return weight.groupSize === 0 ? `${weight.format} per channel` : `${weight.format} g${weight.groupSize}`;
}

function lorcWords({ weight: { lorc } }: Extract<PlanSite, { decision: 'quantize' }>): string {
  return lorc ? `, LoRC of rank ${lorc.rank} in ${lorc.bits} bits` : '';
}

/** One row for each outcome: the layers quantized in one way, or kept for one reason. */
function sitesByOutcome(sites: readonly PlanSite[]): string {
  const outcomes = new Map<string, { count: number; roles: Set<string> }>();
  for (const site of sites) {
    const outcome =
      site.decision === 'quantize'
        ? `quantized: ${weightWords(site)}${site.weight.rounding === 'gptq' ? ', GPTQ' : ''}${lorcWords(site)}`
        : `kept in float: ${site.reason}`;
    const entry = outcomes.get(outcome) ?? { count: 0, roles: new Set<string>() };
    entry.count++;
    entry.roles.add(site.role);
    outcomes.set(outcome, entry);
  }
  return table(
    ['layers', 'outcome', 'roles'],
    [...outcomes].map(([outcome, { count, roles }]) => [String(count), outcome, [...roles].join(', ')]),
  );
}

/** Likewise for key and value caches. */
function cachesByOutcome(caches: readonly PlanCache[]): string {
  const outcomes = new Map<string, number>();
  for (const cache of caches) {
    const outcome =
      cache.decision === 'keep'
        ? `kept in float: ${cache.reason}`
        : `quantized: ${[`u${cache.bits}`, ...cache.notes].join(', ')}; ${cache.bytesPerToken} bytes a token instead of ${cache.floatBytesPerToken}`;
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  return table(
    ['caches', 'outcome'],
    [...outcomes].map(([outcome, count]) => [String(count), outcome]),
  );
}

/** The sentence for --strict. */
export function strictSentence(unexpected: readonly KeptLayer[]): string {
  const listed = unexpected.slice(0, 3).map(({ name, reason }) => `${name} (${reason})`);
  const more = unexpected.length > listed.length ? ` and ${unexpected.length - listed.length} more` : '';
  return `--strict: ${plural(unexpected.length, 'layer')} stayed in float that the recipe wanted to change, expected none: ${listed.join('; ')}${more}.`;
}
