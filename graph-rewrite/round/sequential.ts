import { analyze } from '../analyze/index.js';
import type { Model } from '../ir/model.js';
import { applyPlan, type RoundedWeights } from '../passes/index.js';
import type { HessianGroup, Plan, PlanInput } from '../plan/index.js';

/**
 * Quantizes everything in front of a pass, activations too, by carrying out the first part of the plan. The decoder block of the pass
 * itself stays float, as Atom's reference has it, and so do caches.
 */
export function quantizeBefore(pass: readonly HessianGroup[], model: Model, plan: Plan, weights: RoundedWeights): void {
  const inputs = inputsBefore(pass, plan);
  if (inputs.length === 0) return;
  const before = new Set(inputs.map((input) => input.id));
  const sites = plan.sites.map((site) => {
    if (site.decision === 'keep' || before.has(site.input)) return site;
    const { site: name, role, layer, K, N } = site;
    const base = { site: name, role, ...(layer === undefined ? {} : { layer }), K, N };
    return { ...base, decision: 'keep' as const, reason: 'comes later', expected: true };
  });
  // Attention stays as it is, so a node behind it quantizes what it would quantize itself.
  const apart = inputs.map((input) =>
    input.decision === 'fuse-attention' ? { ...input, decision: 'quantize' as const } : input,
  );
  applyPlan(model, { ...plan, inputs: apart, sites, caches: [] }, analyze(model), weights);
}

/** The inputs of the plan up to the decoder block of the pass. */
function inputsBefore(
  pass: readonly HessianGroup[],
  { inputs, sites }: Pick<Plan, 'inputs' | 'sites'>,
): readonly PlanInput[] {
  const [{ layer, values }] = pass as [HessianGroup];
  const layerOf = new Map(sites.map((site) => [site.site, site.layer]));
  const first = inputs.findIndex((input) =>
    layer === undefined ? values.includes(input.value) : input.sites.some((site) => layerOf.get(site) === layer),
  );
  return inputs.slice(0, first);
}
