export { collectHessians, type HessianOptions, type HessianTarget } from './hessians.js';
export type { RoundingFunctions } from './product.js';
export { roundWeights, type Rounded, type RoundOptions } from './round.js';
export type { RoundedLayer } from './store.js';
