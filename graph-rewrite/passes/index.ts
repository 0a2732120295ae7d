/** Carries out a plan. */
import { internalError, LowbitError } from '../../ops/common/errors.js';
import { analyze } from '../analyze/index.js';
import type { Analysis } from '../analyze/sites.js';
import { checkModel, type Model } from '../ir/index.js';
import { checkPlanFor } from '../plan/fingerprint.js';
import type { Plan } from '../plan/plan.js';
import { checkRewritten } from './check.js';
import { PassContext, type RoundedWeights } from './context.js';
import { fuseAct } from './fuse-act.js';
import { fuseGate } from './fuse-gate.js';
import { fuseNorm } from './fuse-norm.js';
import { packAttention } from './pack-attention.js';
import type { Pass } from './pass.js';
import { prune } from './prune.js';
import { quantizeCache } from './quantize-cache.js';
import { quantizeInput } from './quantize-input.js';
import { stamp } from './stamp.js';
import { swapLinear } from './swap-linear.js';

export type { RoundedWeights } from './context.js';

/** The passes in their order, each with the reason for its place. */
export const pipeline: readonly { readonly pass: Pass; readonly because: string }[] = [
  { pass: fuseNorm, because: 'first, since a norm that still gives floats renames the value that others read' },
  { pass: fuseGate, because: 'reads the float results of gate and up, which the products take over below' },
  { pass: fuseAct, because: 'likewise' },
  { pass: quantizeInput, because: 'last of the quantizers: it reads what the norms above may have replaced' },
  { pass: quantizeCache, because: 'likewise quantizes what it gives to the layer behind it' },
  { pass: packAttention, because: 'attention that stays reads what a product makes below' },
  { pass: swapLinear, because: 'every product finds the codes of its input' },
  { pass: prune, because: 'what the new nodes replaced is dead only now' },
  { pass: stamp, because: 'the model says so once it is rewritten' },
];

export interface RewriteReport {
  /** Linear layers. */
  readonly quantized: number;
  /** Attentions whose cache is quantized. */
  readonly caches: number;
  readonly kept: readonly { readonly name: string; readonly reason: string; readonly expected: boolean }[];
  /** Places that each pass changed, in order. */
  readonly passes: readonly { readonly name: string; readonly changed: number }[];
  readonly predicted: Plan['predicted'];
}

/**
 * Rewrites the model in place as the plan says. Weights are packed when the model is saved.
 * @param analysis of this very model, if there is one already
 * @param weights what `round` made, if the plan asks for GPTQ
 * @throws usage error if the plan was made for another model, or weights are missing
 */
export function applyPlan(
  model: Model,
  plan: Plan,
  analysis: Analysis = analyze(model),
  weights?: RoundedWeights,
): RewriteReport {
  checkPlanFor(plan, model, analysis);
  const context = new PassContext(model, analysis, plan, weights);
  const passes = pipeline.map(({ pass }) => {
    context.begin(pass.name);
    try {
      return { name: pass.name, changed: pass.run(context) };
    } catch (error) {
      if (error instanceof LowbitError) throw error;
      throw internalError(`pass ${pass.name}`, (error as Error).message);
    }
  });
  checkModel(model);
  checkRewritten(context);
  const kept = [...plan.sites, ...(plan.caches ?? [])].flatMap((site) => (site.decision === 'keep' ? [site] : []));
  const isQuantized = ({ decision }: { decision: string }) => decision === 'quantize';
  return {
    quantized: plan.sites.filter(isQuantized).length,
    caches: (plan.caches ?? []).filter(isQuantized).length,
    kept: kept.map(({ site, reason, expected }) => ({ name: site, reason, expected })),
    passes,
    predicted: plan.predicted,
  };
}
