/** The operators of the domain `lowbit`: one line each, in the order of `ops/register.cc`. */
import type { OpDescription } from './define-op.js';
import { QuantGemm } from './quant-gemm/contract.js';

export { domain } from './define-op.js';
export type { NodeAttribute, NodeParts, OpContract, OpDescription } from './define-op.js';
export { QuantGemm };

/** Every contract, as the native library must describe itself. */
export function describeContracts(): OpDescription[] {
  return [QuantGemm].map((op) => op.describe());
}
