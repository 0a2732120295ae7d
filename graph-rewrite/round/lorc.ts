/** Low-rank terms: the best approximation of what rounding took from a weight, kept beside the codes. */
import type { Addon } from '../../native/js/addon.js';
import { bytesOf, floatRows, unpackFloats } from '../pack/codes.js';
import { packedSizes, type Parts } from '../pack/linear.js';
import { packDown, packUp, subtractLorc } from '../pack/lorc.js';
import type { Product } from '../plan/products.js';
import type { LorcRecord } from './store.js';

/**
 * Adds the factors of the product's low-rank term to its packed parts: U·√S and √S·Vᵀ of the error W − Ŵ in stored channel order
 * (ZeroQuant-V2, arXiv 2303.08302).
 */
export async function addLorc(
  { name, sources, spec }: Product,
  parts: Parts,
  native: Pick<Addon, 'lowRank'>,
  threads: number,
): Promise<{ parts: Parts; record: LorcRecord }> {
  const lorc = spec.lorc!;
  const sizes = packedSizes(name, sources, spec);
  const error = floatRows(name, sources, spec);
  const whole = energy(error);
  const rounded = unpackFloats(parts, spec, sizes);
  for (let i = 0; i < error.length; i++) error[i]! -= rounded[i]!;
  const before = energy(error) / whole;
  const factors = await native.lowRank(error, sizes.N, sizes.K, lorc.rank, threads);
  const down = packDown(name, factors.down, lorc.rank, lorc);
  const up = packUp(name, factors.up, lorc.rank, lorc);
  subtractLorc(error, down, up);
  return {
    parts: {
      ...parts,
      lorcDown: bytesOf(down.codes),
      lorcDownScale: bytesOf(down.scales),
      lorcUp: bytesOf(up.codes),
      lorcUpScale: bytesOf(up.scales),
    },
    record: { rank: lorc.rank, error: before, left: energy(error) / whole },
  };
}

/** Σ x², of a weight without any 1, so that shares of it are numbers. */
function energy(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return sum || 1;
}
