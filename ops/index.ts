/** The operators of the domain `lowbit`: one line each, in the order of `ops/register.cc`. */
import { ActQuantize } from './act-quantize/contract.js';
import type { OpDescription } from './define-op.js';
import { GatedActQuantize } from './gated-act-quantize/contract.js';
import { NormQuantize } from './norm-quantize/contract.js';
import { QuantGemm } from './quant-gemm/contract.js';
import { QuantKvAttention } from './quant-kv-attention/contract.js';
import { Quantize } from './quantize/contract.js';

export { domain } from './define-op.js';
export type { NodeAttribute, NodeParts, OpContract, OpDescription } from './define-op.js';
export { ActQuantize, GatedActQuantize, NormQuantize, QuantGemm, QuantKvAttention, Quantize };

/** Every contract, as the native library must describe itself. */
export function describeContracts(): OpDescription[] {
  return [Quantize, NormQuantize, GatedActQuantize, ActQuantize, QuantGemm, QuantKvAttention].map((op) =>
    op.describe(),
  );
}
