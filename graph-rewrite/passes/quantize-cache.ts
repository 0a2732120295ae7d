/** Attention with a float cache → QuantKvAttention with a quantized one. */
import { internalError } from '../../ops/common/errors.js';
import { kvRowBytes } from '../../ops/formats/kv.js';
import { QuantKvAttention } from '../../ops/quant-kv-attention/contract.js';
import { attentionRows } from '../analyze/attention-rows.js';
import type { AttentionSite, CachedAttention, CacheTensor, RowLayout } from '../analyze/sites.js';
import { ints, tensorOf, type Node, type Value } from '../ir/index.js';
import { decodeOrder, type PlanCache, type PlanInput } from '../plan/plan.js';
import { cachesKey, type CacheEntry } from './cache-metadata.js';
import { moveShapeUses, type PassContext } from './context.js';
import type { Pass } from './pass.js';
import { lengths, mask, SharedInputs } from './kv-inputs.js';
import { rotaryTables } from './rotary-tables.js';
import { rowFormat } from './row-format.js';
import { orderTensor } from './tensors.js';

export const quantizeCache: Pass = {
  name: 'quantize-cache',
  run(context) {
    const planned = (context.plan.caches ?? []).flatMap((cache) => (cache.decision === 'quantize' ? [cache] : []));
    const shared = new SharedInputs();
    const entries = planned.flatMap((cache) => {
      const site = context.analysis.caches.find((each) => each.attention.name === cache.site);
      if (!site?.cached)
        throw internalError('quantize-cache', `the plan speaks of "${cache.site}", which has no cache`);
      return takeOver(site.cached, site.attention, cache, context, shared);
    });
    if (entries.length > 0) context.model.metadata.set(cachesKey, JSON.stringify(entries));
    return planned.length;
  },
};

/** Where the operator's outputs are; each present is followed by its parameters. */
enum Output {
  Y = 0,
  PresentKey = 1,
  PresentValue = 3,
  Codes = 5,
  Scale = 6,
}

/** How the output is quantized, in the operator's attributes. */
function outputFormat(input: PlanInput) {
  const { format, group_size, outlier_channels, clip } = rowFormat(input);
  return { q_format: format, q_group_size: group_size, q_outlier_channels: outlier_channels, q_clip: clip };
}

type Planned = Extract<PlanCache, { decision: 'quantize' }>;

function takeOver(
  found: CachedAttention,
  attention: AttentionSite,
  planned: Planned,
  context: PassContext,
  shared: SharedInputs,
): CacheEntry[] {
  const before = attention.node;
  const cached = withRows(found, before, context);
  const { heads, kvHeads, headSize, q, k, v } = cached;
  const rows = attentionRows(attention, cached);
  const packed = rows !== undefined && context.pack(rows);
  const { name } = before;
  const inPlace = planned.form === 'in_place';
  const [key, value] = [cached.key, cached.value].map((tensor) => quantizeInput(tensor, cached, planned)) as [
    CacheInput,
    CacheInput,
  ];
  const tables = rotaryTables(cached, inPlace, before, context, shared.angles);
  const fused = context.plan.inputs.find(
    (input) => input.decision === 'fuse-attention' && input.producer === planned.site,
  );
  const order =
    fused?.reorder === 'gather' && fused.order
      ? context.constant(`${name}/reorder_index`, orderTensor(decodeOrder(fused.order)))
      : undefined;
  const parts = QuantKvAttention.node<Value>(
    {
      q: context.current(q),
      ...(k && v && !packed ? { k: context.current(k), v: context.current(v) } : {}),
      ...{ past_k: key.codes, past_k_param: key.parameters },
      ...{ past_v: value.codes, past_v_param: value.parameters },
      lengths: lengths(cached, inPlace, before, context, shared),
      ...tables,
      // A cache in place is told the same by `lengths`, and the mask has the size of all tokens.
      mask: cached.mask && !(cached.padding && inPlace) ? mask(cached.mask, q, before, context, shared) : undefined,
      reorder_index: order,
    },
    {
      ...{ num_heads: heads, kv_num_heads: kvHeads, head_dim: headSize },
      ...{ bits: planned.bits, clip: planned.clip },
      ...{ scale: cached.scale, softcap: cached.softcap, causal: Number(cached.causal), window: cached.window },
      ...{ rotary: cached.rotary, kv_rope: planned.rope === 'post' ? 'post' : 'pre' },
      in_place: Number(inPlace),
      ...(fused ? outputFormat(fused) : {}),
    },
  );
  const presents = [cached.key, cached.value].flatMap(({ present }) => [
    `${name}/${present.name}`,
    parametersOf(present.name),
  ]);
  const codes = fused ? [`${name}/q`, `${name}/scale`] : [];
  const outputs = [fused ? undefined : `${name}/y`, ...presents, ...codes];
  const node = context.add(parts, `${name}/QuantKvAttention`, outputs, before);
  if (fused) {
    const q = node.output(Output.Codes)!;
    context.codes.set(fused.id, { q, scale: node.output(Output.Scale)! });
    moveShapeUses(cached.y, q);
  } else context.replace(cached.y, asRows(node.output(Output.Y)!, cached, before, context));
  return [
    quantizeOutput('key', cached.key, key, node, Output.PresentKey, planned, context),
    quantizeOutput('value', cached.value, value, node, Output.PresentValue, planned, context),
  ];
}

/** The same attention with queries, keys and values as rows. */
function withRows(cached: CachedAttention, before: Node, context: PassContext): CachedAttention {
  const { layouts, headSize } = cached;
  const rows = (value: Value | undefined, layout: RowLayout = 'rows', part: string, count: number) => {
    if (!value || layout === 'rows') return value;
    const at = `${before.name}/${part}`;
    const add = (opType: string, inputs: Value[]) =>
      context.add({ opType, domain: '', inputs }, `${at}/${opType}`, [`${at}/${opType}_y`], before);
    let wide = context.current(value);
    if (layout === 'heads') {
      const turned = add('Transpose', [wide]);
      turned.attributes.set('perm', ints([0, 2, 1, 3]));
      wide = turned.output(0)!;
    }
    const shape = context.constant(`${at}/rows`, tensorOf([0, 0, count * headSize]));
    const made = add('Reshape', [wide, shape]).output(0)!;
    made.dtype = context.typeOf(value);
    return made;
  };
  if (!layouts) return cached;
  const { heads, kvHeads } = cached;
  const [k, v] = [rows(cached.k, layouts.k, 'k', kvHeads), rows(cached.v, layouts.v, 'v', kvHeads)];
  return { ...cached, q: rows(cached.q, layouts.q, 'q', heads)!, ...(k && v ? { k, v } : {}) };
}

/** The operator's output in the rank that its reader wants. */
function asRows(y: Value, { y: old, heads, headSize }: CachedAttention, before: Node, context: PassContext): Value {
  if (context.analysis.shapes.dims(old)?.length !== 2) return y;
  const shape = context.constant(`${before.name}/rows`, tensorOf([-1, heads * headSize]));
  const add = { opType: 'Reshape', domain: '', inputs: [y, shape] };
  return context.add(add, `${before.name}/Reshape`, [`${before.name}/rows_y`], before).output(0)!;
}

interface CacheInput {
  readonly codes: Value;
  readonly parameters: Value;
  readonly rowBytes: number;
}

/** The name of the parameters that go with codes. */
const parametersOf = (name: string): string => `${name}_param`;

/** Name of the dimension that past and present share when they stay in place. */
const capacity = 'kv_capacity';

/** Gives the cache input its new type and adds the one for its parameters. */
function quantizeInput(
  { past, copy }: CacheTensor,
  { headSize, kvHeads }: CachedAttention,
  { bits, form }: Planned,
): CacheInput {
  const rowBytes = kvRowBytes(headSize, bits);
  const [batch, , pastLength] = past.shape ?? [];
  const length = form === 'in_place' ? capacity : pastLength;
  if (copy) copy.graph.replaceAllUses(copy, past);
  past.dtype = 'uint8';
  past.shape = [batch, kvHeads, length, rowBytes];
  const parameters = past.graph.addInput(parametersOf(past.name), 'float16', [batch, kvHeads, length, 2]);
  return { codes: past, parameters, rowBytes };
}

/** Lets the operator's output take the place and the name of the cache output; adds one for its parameters. */
function quantizeOutput(
  kind: CacheEntry['kind'],
  { past, present }: CacheTensor,
  { parameters, rowBytes }: CacheInput,
  node: Node,
  index: number,
  { bits, rope, layer, form }: Planned,
  context: PassContext,
): CacheEntry {
  const { name, graph } = present;
  const [batch, heads, presentLength] = present.shape ?? [];
  const length = form === 'in_place' ? capacity : presentLength;
  const codes = node.output(index)!;
  context.replace(present, codes);
  codes.dtype = 'uint8';
  codes.shape = [batch, heads, length, rowBytes];
  const presentParameters = node.output(index + 1)!;
  presentParameters.dtype = 'float16';
  presentParameters.shape = [batch, heads, length, 2];
  graph.addOutput(presentParameters);
  return {
    ...(layer === undefined ? {} : { layer }),
    ...{ kind, bits, rope, form, past: past.name, present: name },
    ...{ past_param: parameters.name, present_param: presentParameters.name },
  };
}
