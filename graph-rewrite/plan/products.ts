/** The products that a plan asks for: one QuantGemm each, made of one layer or of several that share their input. */
import { roles, type LinearSite } from '../analyze/sites.js';
import type { PackSpec } from '../pack/linear.js';
import type { WeightSource } from '../pack/rows.js';
import { decodeFactors, decodeOrder, type Plan, type PlanInput, type QuantizedSite } from './plan.js';

export interface ProductPart {
  readonly site: LinearSite;
  readonly planned: QuantizedSite;
  /** Order of its rows. */
  readonly rowOrder: Int32Array | undefined;
  /** Divisors of its rows, natural order. */
  readonly rowSmooth: Float32Array | undefined;
}

export interface Product {
  readonly name: string;
  readonly input: PlanInput;
  /** At least one. */
  readonly parts: readonly ProductPart[];
  readonly K: number;
  /** Rows of all parts. */
  readonly N: number;
  readonly rounding: 'rtn' | 'gptq';
  readonly sources: readonly WeightSource[];
  /** Channel k of the float input is divided by smooth[k]. */
  readonly smooth: Float32Array | undefined;
  readonly spec: PackSpec;
}

/** All products in plan order; layers of one stand in the order of their roles, which is the one that readers of all expect. */
export function listProducts(
  { inputs, sites }: Pick<Plan, 'inputs' | 'sites'>,
  siteOf: (name: string) => LinearSite,
): Product[] {
  const parts = new Map<string, ProductPart[]>();
  for (const planned of sites) {
    if (planned.decision === 'keep') continue;
    const rowOrder = planned.rowOrder === undefined ? undefined : decodeOrder(planned.rowOrder);
    const rowSmooth = planned.rowSmooth === undefined ? undefined : decodeFactors(planned.rowSmooth);
    const name = planned.merge ?? planned.site;
    parts.set(name, [...(parts.get(name) ?? []), { site: siteOf(planned.site), planned, rowOrder, rowSmooth }]);
  }
  const byId = new Map(inputs.map((input) => [input.id, input]));
  const rank = ({ site }: ProductPart) => roles.indexOf(site.role);
  for (const all of parts.values()) all.sort((a, b) => rank(a) - rank(b));
  return [...parts].map(([name, all]) => makeProduct(name, all, byId.get(all[0]!.planned.input)!));
}

function makeProduct(name: string, parts: readonly ProductPart[], input: PlanInput): Product {
  const [{ site, planned }] = parts as [ProductPart];
  const { rounding, ...spec } = planned.weight;
  const columnOrder = input.order === undefined ? undefined : decodeOrder(input.order);
  const energy = input.energy === undefined ? undefined : decodeFactors(input.energy);
  const smooth = input.smooth === undefined ? undefined : decodeFactors(input.smooth);
  return {
    ...{ name, input, parts, rounding, smooth },
    K: site.K,
    N: parts.reduce((sum, part) => sum + part.site.N, 0),
    sources: parts.map(({ site: { weight, layout }, rowOrder, rowSmooth }) => ({
      ...{ weight, layout },
      ...(rowOrder ? { rowOrder } : {}),
      ...(smooth || rowSmooth ? { smooth: { columns: smooth, rows: rowSmooth } } : {}),
    })),
    spec: {
      ...spec,
      ...(columnOrder ? { columnOrder } : {}),
      ...(energy ? { energy: columnOrder ? Float32Array.from(columnOrder, (k) => energy[k]!) : energy } : {}),
    },
  };
}
