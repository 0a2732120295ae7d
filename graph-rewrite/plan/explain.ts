/** The plan as rows for people: what happens to every layer, and why. */
import type { Plan, PlanCache, PlanInput, PlanSite } from './plan.js';

export interface ExplainedSite {
  readonly site: string;
  readonly role: string;
  readonly layer: number | undefined;
  /** `K×N`. */
  readonly shape: string;
  /** Weight and activation codes, or `float`. */
  readonly decision: string;
  /** How its input is quantized and ordered, or why it stays float. */
  readonly reason: string;
}

/** One row per linear layer, in graph order, then one per cache. */
export function explain(plan: Plan): ExplainedSite[] {
  const inputs = new Map(plan.inputs.map((input) => [input.id, input]));
  const layers = plan.sites.map((site) => ({
    site: site.site,
    role: site.role,
    layer: site.layer,
    shape: `${site.K}×${site.N}`,
    ...decision(site, site.decision === 'quantize' ? inputs.get(site.input) : undefined),
  }));
  return [...layers, ...(plan.caches ?? []).map(explainCache)];
}

function explainCache(cache: PlanCache): ExplainedSite {
  const { site, layer } = cache;
  const base = { site, role: 'kv_cache', layer, shape: '-' };
  if (cache.decision === 'keep') return { ...base, decision: 'float', reason: cache.reason };
  const { bits, bytesPerToken, floatBytesPerToken, notes } = cache;
  const size = `${bytesPerToken} bytes a token instead of ${floatBytesPerToken}`;
  return { ...base, decision: `u${bits} keys and values`, reason: [size, ...notes].join('; ') };
}

function decision(site: PlanSite, input: PlanInput | undefined): { decision: string; reason: string } {
  if (site.decision === 'keep') return { decision: 'float', reason: site.reason };
  const { format, groupSize, outlierChannels, rounding, lorc } = site.weight;
  const codes = (name: string, group: number) => (group > 0 ? `${name}/${group}` : name);
  const activation = !input || input.format === 'none' ? 'float' : codes(input.format, input.groupSize);
  const threshold = input?.threshold === undefined ? '' : `, float from ${input.threshold} on`;
  const parts = [
    ...(input?.threshold === undefined ? [input?.decision ?? 'float'] : ['quantized inside the product']),
    ...(input && input.reorder !== 'none' ? [input.reorder] : []),
    ...(rounding === 'gptq' ? ['gptq'] : []),
    ...(lorc ? [`lorc of rank ${lorc.rank} in ${lorc.bits} bits`] : []),
    ...(input?.residual ? ['with residual add'] : []),
    ...(site.merge === undefined ? [] : [`merged as ${site.merge}`]),
    ...(input?.notes ?? []),
    ...site.notes,
  ];
  const outliers = outlierChannels > 0 ? ` + ${outlierChannels} s8` : '';
  return { decision: `${codes(format, groupSize)} × ${activation}${threshold}${outliers}`, reason: parts.join('; ') };
}
