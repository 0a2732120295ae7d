export { keepWithinBudget, type BudgetResult } from './budget.js';
export { measureAlone, separateLayers, type MeasureOptions, type SensitiveLayers } from './measure.js';
