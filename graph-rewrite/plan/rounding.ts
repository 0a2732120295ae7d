/**
 * How GPTQ goes through a model: which inputs need a Hessian (Σ x·xᵀ over the calibration rows), and which of them are collected in one
 * pass over the calibration data.
 */
import type { Analysis } from '../analyze/sites.js';
import { gptqSettings } from '../recipes/resolve.js';
import type { GptqSettings, Recipe } from '../recipes/recipe.js';
import type { PlanInput, PlanSite, RoundingCost } from './plan.js';
import { listProducts, type Product } from './products.js';

/** Products that are rounded with one Hessian: those of one input, and of inputs whose layers share a weight. */
export interface HessianGroup {
  /** Values whose rows are summed. */
  readonly values: readonly string[];
  readonly K: number;
  /** Decoder block of the first layer. */
  readonly layer: number | undefined;
  readonly products: readonly Product[];
}

/** Groups of the products with rounding `gptq`, in graph order. */
export function hessianGroups(products: readonly Product[]): HessianGroup[] {
  let groups: { values: string[]; products: Product[] }[] = [];
  for (const product of products) {
    if (product.rounding !== 'gptq') continue;
    const { value } = product.input;
    const related = groups.filter(
      (group) => group.values.includes(value) || group.products.some((other) => shareWeight(product, other)),
    );
    const merged = {
      values: [...new Set([...related.flatMap((group) => group.values), value])],
      products: [...related.flatMap((group) => group.products), product],
    };
    const [first] = related;
    groups = first
      ? groups.flatMap((group) => (group === first ? [merged] : related.includes(group) ? [] : [group]))
      : [...groups, merged];
  }
  return groups.map(({ values, products: own }) => {
    const [{ K, parts }] = own as [Product];
    return { values, K, layer: parts[0]!.planned.layer, products: own };
  });
}

function shareWeight(a: Product, b: Product): boolean {
  const weights = new Set(a.parts.map(({ site }) => site.weightValue));
  return b.parts.some(({ site }) => site.weightValue !== undefined && weights.has(site.weightValue));
}

/** A run hands out float32 sums, and they are added to sums of the runs before. */
const bytesPerHessianElement = 8;

/**
 * Groups that are collected together: as many as fit into the memory given, at least one; with `sequential`, of one decoder block.
 */
export function roundingPasses(
  groups: readonly HessianGroup[],
  { memory, hessian }: GptqSettings,
): (readonly HessianGroup[])[] {
  const passes: HessianGroup[][] = [];
  let free = 0;
  for (const group of groups) {
    const bytes = bytesPerHessianElement * group.K ** 2;
    const last = passes.at(-1);
    const sameBlock = last?.[0]!.layer !== undefined && last[0]!.layer === group.layer;
    if (last && bytes <= free && (hessian === 'float' || sameBlock)) last.push(group);
    else {
      passes.push([group]);
      free = memory * 2 ** 20;
    }
    free -= bytes;
  }
  return passes;
}

/** What the plan says about the cost of GPTQ and of low-rank terms; empty without any. */
export function predictRounding(
  recipe: Recipe,
  analysis: Analysis,
  inputs: readonly PlanInput[],
  sites: readonly PlanSite[],
): { rounding?: RoundingCost } {
  const byName = new Map(analysis.linears.map((site) => [site.name, site]));
  const products = listProducts({ inputs, sites }, (name) => byName.get(name)!);
  const groups = hessianGroups(products);
  const terms = products.filter((product) => product.spec.lorc);
  if (groups.length === 0 && terms.length === 0) return {};
  const passes = roundingPasses(groups, gptqSettings(recipe));
  const hessianBytes = passes.map((pass) => pass.reduce((sum, { K }) => sum + bytesPerHessianElement * K ** 2, 0));
  // A product: its weight in float four times (as stored, ordered, compensated, codes) and three matrices like its Hessian.
  const productBytes = groups.flatMap((group) => group.products.map(({ K, N }) => 4 * N * K * 4 + 3 * K * K * 4));
  // A term: the weight in float three times (as stored, rounded, their difference).
  const termBytes = terms.map(({ K, N }) => 3 * N * K * 4);
  return {
    rounding: {
      passes: passes.length,
      hessianBytes: Math.max(0, ...hessianBytes),
      productBytes: Math.max(...productBytes, ...termBytes),
    },
  };
}
