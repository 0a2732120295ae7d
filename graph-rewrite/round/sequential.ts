import { usageError } from '../../ops/common/errors.js';
import { analyze } from '../analyze/index.js';
import type { Model } from '../ir/model.js';
import { applyPlan, type RoundedWeights } from '../passes/index.js';
import type { HessianGroup, Plan, PlanInput } from '../plan/index.js';

/**
 * The model with everything in front of a pass quantized, activations too, and the rest in float: a copy of the float model on which
 * the first part of the plan is carried out. The decoder block of the pass itself is float, as Atom's reference has it.
 */
export function quantizedBefore(
  pass: readonly HessianGroup[],
  { model, plan, reload }: { readonly model: Model; readonly plan: Plan; readonly reload?: () => Model },
  weights: RoundedWeights,
): Model {
  const inputs = inputsBefore(pass, plan);
  if (inputs.length === 0) return model;
  if (!reload)
    throw usageError('gptq.hessian', 'is sequential and the model cannot be read again', 'Set gptq.hessian=float.');
  const before = new Set(inputs.map((input) => input.id));
  const sites = plan.sites.map((site) => {
    if (site.decision === 'keep' || before.has(site.input)) return site;
    const { site: name, role, layer, K, N } = site;
    const base = { site: name, role, ...(layer === undefined ? {} : { layer }), K, N };
    return { ...base, decision: 'keep' as const, reason: 'comes later', expected: true };
  });
  const copy = reload();
  applyPlan(copy, { ...plan, inputs, sites }, analyze(copy), weights);
  return copy;
}

/** The inputs of the plan up to the decoder block of the pass. */
function inputsBefore(pass: readonly HessianGroup[], { inputs, sites }: Plan): readonly PlanInput[] {
  const [{ layer, values }] = pass as [HessianGroup];
  const layerOf = new Map(sites.map((site) => [site.site, site.layer]));
  const first = inputs.findIndex((input) =>
    layer === undefined ? values.includes(input.value) : input.sites.some((site) => layerOf.get(site) === layer),
  );
  return inputs.slice(0, first);
}
