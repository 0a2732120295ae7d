export { explain, type ExplainedSite } from './explain.js';
export { checkPlanFor, fingerprint } from './fingerprint.js';
export { makePlan, planSteps, type StatsByValue } from './make-plan.js';
export { parsePlan, readPlan } from './parse.js';
export { decodeFactors, decodeOrder, encodeFactors, encodeOrder, shortfalls } from './plan.js';
export type {
  BudgetReport,
  InputDecision,
  KeptSite,
  Plan,
  PlanCache,
  PlanInput,
  PlanSite,
  PlanWeight,
  QuantizedSite,
  Reorder,
  RoundingCost,
} from './plan.js';
export { listProducts, type Product } from './products.js';
export { hessianGroups, roundingPasses, type HessianGroup } from './rounding.js';
export { packedBytes } from './sizes.js';
export { inTurns } from './steps.js';
