/** Norm (with the residual Add in front of it) → NormQuantize. */
import { internalError } from '../../ops/common/errors.js';
import { NormQuantize } from '../../ops/norm-quantize/contract.js';
import type { NormSite } from '../analyze/sites.js';
import { readFloats, type Value } from '../ir/index.js';
import { decodeFactors, decodeOrder, type PlanInput } from '../plan/plan.js';
import { moveShapeUses, type GraphType, type PassContext } from './context.js';
import type { Pass } from './pass.js';
import { rowFormat } from './row-format.js';
import { orderTensor, vector } from './tensors.js';

export const fuseNorm: Pass = {
  name: 'fuse-norm',
  run(context) {
    const planned = context.plan.inputs.filter((input) => input.decision === 'fuse-norm');
    for (const input of planned) fuse(input, context);
    return planned.length;
  },
};

function fuse(input: PlanInput, context: PassContext): void {
  const { producer } = context.group(input);
  if (producer.kind !== 'norm') throw internalError('fuse-norm', `"${input.value}" does not come from a norm`);
  const { norm } = producer;
  const type = context.typeOf(norm.x);
  const sum = summands(norm, input, context);
  const order = input.order
    ? context.constant(`${norm.name}/reorder_index`, orderTensor(decodeOrder(input.order)))
    : undefined;
  const smooth = input.smooth === undefined ? undefined : decodeFactors(input.smooth);
  const parts = NormQuantize.node<Value>(
    {
      x: sum.x,
      weight: normVector(norm, norm.weight, norm.weightOffset, smooth, type, context),
      bias: norm.bias && normVector(norm, norm.bias, 0, smooth, type, context),
      reorder_index: order,
      residual: sum.residual,
    },
    {
      norm: norm.kind,
      epsilon: norm.epsilon,
      ...rowFormat(input),
    },
  );
  const outputs = [
    `${norm.name}/q`,
    `${norm.name}/scale`,
    sum.used ? `${norm.name}/sum` : undefined,
    input.floatOutput ? `${norm.name}/y` : undefined,
  ];
  while (outputs.at(-1) === undefined) outputs.pop();
  const node = context.add(parts, `${norm.name}/NormQuantize`, outputs, norm.node);
  const q = node.output(0)!;
  context.codes.set(input.id, { q, scale: node.output(1)! });
  const fresh = node.output(2);
  if (sum.used && fresh) context.replace(sum.used, fresh);
  if (input.floatOutput) context.replace(norm.y, node.output(3)!);
  else moveShapeUses(norm.y, q);
}

interface Summands {
  readonly x: Value;
  readonly residual?: Value | undefined;
  /** The sum that others still need. */
  readonly used?: Value | undefined;
}

function summands(norm: NormSite, input: PlanInput, context: PassContext): Summands {
  const x = context.current(norm.x);
  if (norm.residual) {
    const residual = context.current(norm.residual);
    const used = norm.sum && (norm.sum.uses.length > 0 || norm.sum.isGraphOutput) ? norm.sum : undefined;
    if (input.residual) return { x, residual, used };
    const add = context.add(
      { opType: 'Add', domain: '', inputs: [x, residual] },
      `${norm.name}/Add`,
      [`${norm.name}/sum`],
      norm.node,
    );
    if (used) context.replace(used, add.output(0)!);
    return { x: add.output(0)! };
  }
  const add = input.residual ? x.producer : undefined;
  if (!add) return { x };
  const others = x.isGraphOutput || x.uses.some(({ node }) => !norm.nodes.includes(node) && !node.is('Shape'));
  if (!others) moveShapeUses(x, add.input(0)!);
  return { x: add.input(0)!, residual: add.input(1), used: others ? x : undefined };
}

/** A norm's scale or shift, smoothed, as a vector of the graph's type; the model's own constant where it already is one. */
function normVector(
  norm: NormSite,
  value: Value,
  offset: number,
  smooth: Float32Array | undefined,
  type: GraphType,
  context: PassContext,
): Value {
  const tensor = value.constant()!;
  if (offset === 0 && !smooth && tensor.dtype === type && tensor.dims.length === 1) return value;
  const values = () => readFloats(tensor).map((each, k) => (each + offset) / (smooth ? smooth[k]! : 1));
  return context.constant(`${norm.name}/${value === norm.bias ? 'bias' : 'weight'}`, vector(type, norm.K, values));
}
