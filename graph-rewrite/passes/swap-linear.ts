/** MatMul and Gemm → QuantGemm with packed weights; merged layers become one product. */
import { internalError, usageError } from '../../ops/common/errors.js';
import { QuantGemm } from '../../ops/quant-gemm/contract.js';
import type { LinearSite } from '../analyze/sites.js';
import { ints, tensorOf, type Node, type Tensor, type Value } from '../ir/index.js';
import { packLinear, type PackedLinear } from '../pack/linear.js';
import type { PlanInput } from '../plan/plan.js';
import { listProducts, type Product, type ProductPart } from '../plan/products.js';
import type { PassContext } from './context.js';
import { writeCorrespondence, writeInputOrder } from './correspondence.js';
import type { Pass } from './pass.js';
import { joinBiases, noBias } from './tensors.js';

export const swapLinear: Pass = {
  name: 'swap-linear',
  run(context) {
    const products = listProducts(context.plan, (name) => context.site(name));
    for (const product of products) swap(product, context);
    return products.length;
  },
};

function swap(product: Product, context: PassContext): void {
  const { name, parts, input, N } = product;
  const [{ site, planned }] = parts as [ProductPart];
  const type = context.typeOf(site.x, site);
  const packed = pack(product, context);
  const constant = (suffix: string, tensor: Tensor | undefined) =>
    tensor && context.constant(`${name}/${suffix}`, tensor);
  const codes = context.codes.get(input.id);
  const bias = parts.some((part) => part.site.bias)
    ? constant(
        'bias',
        joinBiases(
          type,
          parts.map(({ site: { bias, N }, rowOrder, rowSmooth }) => ({ bias, N, rowOrder, rowSmooth })),
        ),
      )
    : context.constant('lowbit/no_bias', noBias(type));
  if (!codes && input.decision !== 'float')
    throw internalError('swap-linear', `nothing quantizes the input of "${name}"`);
  const gemm = QuantGemm.node<Value>(
    {
      a: codes?.q ?? context.current(site.x),
      a_scale: codes?.scale,
      b: constant('b', packed.b)!,
      b_scale: constant('b_scale', packed.bScale)!,
      b_outlier: constant('b_outlier', packed.bOutlier),
      b_outlier_scale: constant('b_outlier_scale', packed.bOutlierScale),
      bias: bias!,
      lorc_down: constant('lorc_down', packed.lorcDown),
      lorc_down_scale: constant('lorc_down_scale', packed.lorcDownScale),
      lorc_up: constant('lorc_up', packed.lorcUp),
      lorc_up_scale: constant('lorc_up_scale', packed.lorcUpScale),
    },
    {
      K: site.K,
      N,
      weight_format: planned.weight.format,
      group_size: planned.weight.groupSize,
      ...((product.spec.scaleConstraint ?? 'none') === 'none' ? {} : { scale_ratios: 'powers_of_two' as const }),
      a_format: input.threshold === undefined ? input.format : 's8_dynamic',
      ...(input.threshold === undefined ? {} : { threshold: input.threshold }),
      a_group_size: input.groupSize,
      outlier_channels: planned.weight.outlierChannels,
    },
  );
  const node = context.add(gemm, `${name}/QuantGemm`, [`${name}/y`], site.node);
  writeCorrespondence(
    node,
    parts.map(({ site, rowOrder, rowSmooth }) => ({
      ...{ site: site.name, output: site.y.name, channels: site.N },
      ...{ order: rowOrder, factors: rowSmooth },
    })),
  );
  if (codes?.q.producer) writeInputOrder(codes.q.producer, { order: product.spec.columnOrder, smooth: product.smooth });
  let y = node.output(0)!;
  if (codes && (isFlattened(site, context.group(input).input, context) || isRestored(input, context)))
    y = flatten(y, N, name, site.node, context);
  // A packed product has no counterpart in the float graph, so it takes over no name; what else reads the parts is dead.
  if (context.packed.has(name)) site.y.graph.replaceAllUses(site.y, y);
  else if (parts.length === 1) context.replace(site.y, y);
  else split(y, parts, name, context);
}

/** The weights as they are given (rounded before), or rounded to nearest at save. */
function pack({ name, sources, spec, rounding }: Product, context: PassContext): PackedLinear {
  const given = context.weights?.(name);
  if (given) return given;
  if (rounding === 'rtn' && !spec.lorc) return packLinear(name, sources, spec);
  const why = rounding === 'gptq' ? 'rounds it by GPTQ' : 'gives it a low-rank term';
  throw usageError(name, `the plan ${why} and no rounded weights are given`, 'Give calibration data.');
}

/** Whether the layer reads `[M, K]` while its input is quantized with all its axes. */
function isFlattened(site: LinearSite, input: Value, context: PassContext): boolean {
  const ends = [input, context.current(input)];
  for (let at = site.x; !ends.includes(at); at = at.producer!.input(0)!) if (at.producer!.is('Reshape')) return true;
  return false;
}

/** Whether attention, whose rows were flattened, quantizes them with all their axes. */
function isRestored(input: PlanInput, context: PassContext): boolean {
  return input.decision === 'fuse-attention' && context.analysis.shapes.dims(context.group(input).input)?.length === 2;
}

function flatten(y: Value, N: number, name: string, before: Node, context: PassContext): Value {
  const shape = context.constant(`${name}/rows`, tensorOf([-1, N]));
  return context
    .add({ opType: 'Reshape', domain: '', inputs: [y, shape] }, `${name}/Reshape`, [`${name}/rows_y`], before)
    .output(0)!;
}

/** Takes a merged product apart again along its channels. */
function split(y: Value, parts: readonly ProductPart[], name: string, context: PassContext): void {
  const sizes = parts.map(({ site }) => site.N);
  const outputs = parts.map(({ site }) => `${site.name}/y`);
  // The sizes became an input in opset 13.
  const asInput = (context.model.opsetImports.get('') ?? 0) >= 13;
  const node = context.add(
    {
      ...{ opType: 'Split', domain: '' },
      inputs: asInput ? [y, context.constant(`${name}/sizes`, tensorOf(sizes))] : [y],
      attributes: new Map(),
    },
    ...([`${name}/Split`, outputs, parts[0]!.site.node] as const),
  );
  node.attributes.set('axis', { type: 'int', value: -1 });
  if (!asInput) node.attributes.set('split', ints(sizes));
  parts.forEach(({ site }, i) => context.replace(site.y, node.output(i)!));
}
