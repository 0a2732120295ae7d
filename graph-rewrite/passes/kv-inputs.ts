/** What the attention operator is told besides its rows: lengths and masks, made once for all layers. */
import type { AttentionMask, CachedAttention } from '../analyze/sites.js';
import { int, ints, tensorOf, type Attribute, type Node, type Value } from '../ir/index.js';
import { dtypeToOnnx } from '../onnx/dtype.js';
import type { PassContext } from './context.js';
import { number } from './tensors.js';

/** What all layers share, by the values that it is made of. */
export class SharedInputs {
  readonly lengths = new Map<Value, Value>();
  readonly masks = new Map<Value, Value>();
  /** Tables of RoPE. */
  readonly angles = new Map<Value, Value>();
}

type Add = (opType: string, inputs: readonly Value[], attributes?: Record<string, Attribute>) => Value;

function adder(at: string, before: Node, context: PassContext): Add {
  return (opType, inputs, attributes = {}) => {
    const node = context.add(
      { opType, domain: '', inputs: [...inputs] },
      `${at}/${opType}`,
      [`${at}/${opType}_y`],
      before,
    );
    for (const [key, attribute] of Object.entries(attributes)) node.attributes.set(key, attribute);
    return node.output(0)!;
  };
}

/** An operator whose axes became an input in opset 13. */
function withAxes(
  add: Add,
  opType: string,
  x: Value,
  axes: readonly number[],
  context: PassContext,
  attributes: Record<string, Attribute> = {},
): Value {
  if ((context.model.opsetImports.get('') ?? 0) < 13) return add(opType, [x], { axes: ints(axes), ...attributes });
  return add(opType, [x, context.constant('lowbit/kv_axes', tensorOf([...axes]))], attributes);
}

/**
 * Lengths of the sequences, made once for all layers: GroupQueryAttention is given one less. A cache in place is told what a growing one
 * says by its size, by the sum of attention_mask. Tokens lie at the front of a cache, so a row of attention_mask that begins with a zero
 * (a prompt padded on the left) would say where no token is: its length becomes negative, which the operator refuses.
 */
export function lengths(
  { lastIndex, countsMarks, attentionMask }: CachedAttention,
  inPlace: boolean,
  before: Node,
  context: PassContext,
  shared: SharedInputs,
): Value | undefined {
  const source = lastIndex ?? (inPlace ? attentionMask : undefined);
  const known = source && shared.lengths.get(source);
  if (!source || known) return known;
  const at = 'lowbit/kv_lengths';
  const add = adder(at, before, context);
  const counted = lastIndex
    ? add('Add', [
        add('Reshape', [lastIndex, context.constant(`${at}/shape`, tensorOf([-1]))]),
        context.constant(`${at}/one`, tensorOf(Int32Array.of(1))),
      ])
    : withAxes(add, 'ReduceSum', add('Cast', [source], { to: int(6) }), [1], context, { keepdims: int(0) });
  const made =
    attentionMask && (countsMarks || !lastIndex) ? refused(counted, attentionMask, at, context, before) : counted;
  shared.lengths.set(source, made);
  return made;
}

/** The lengths where attention_mask begins with a mark, and less than 0 where it begins with a zero and has marks. */
function refused(counted: Value, attentionMask: Value, at: string, context: PassContext, before: Node): Value {
  const type = context.analysis.shapes.dtype(attentionMask);
  if (type !== 'int64' && type !== 'int32') return counted;
  const add = adder(`${at}/first`, before, context);
  const first = add('Gather', [attentionMask, context.constant(`${at}/zero`, tensorOf(Int32Array.of(0), []))], {
    axis: int(1),
  });
  const sign = adder(
    `${at}/sign`,
    before,
    context,
  )('Gather', [context.constant(`${at}/signs`, tensorOf(Int32Array.of(-1, 1))), first]);
  return add('Mul', [counted, sign]);
}

/** What is added to the scores, rank 4 and of the type of the rows; a condition becomes 0 or the lowest score. */
export function mask(
  given: AttentionMask,
  rows: Value,
  before: Node,
  context: PassContext,
  shared: SharedInputs,
): Value {
  const known = shared.masks.get(given.value);
  if (known) return known;
  const add = adder('lowbit/kv_mask', before, context);
  const type = context.typeOf(rows);
  const dtype = context.analysis.shapes.dtype(given.value);
  let made = given.value;
  if (given.kind === 'where') {
    if (dtype !== 'bool') made = add('Cast', [made], { to: int(9) });
    const [visible, lowest] = [0, given.lowest].map((value) =>
      context.constant('lowbit/kv_score', number(type, value)),
    );
    made = add('Where', given.hides ? [made, lowest!, visible!] : [made, visible!, lowest!]);
  } else if (dtype !== undefined && dtype !== type) made = add('Cast', [made], { to: int(dtypeToOnnx(type)) });
  if (given.axes?.length) made = withAxes(add, 'Unsqueeze', made, given.axes, context);
  shared.masks.set(given.value, made);
  return made;
}
