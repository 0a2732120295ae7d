/** What feeding a text model needs and only its graph tells. */
import type { InferenceSession, Tensor } from 'onnxruntime-common';
import { attrInt } from '../ir/attributes.js';
import type { Model } from '../ir/model.js';
import type { Node } from '../ir/node.js';
import type { Value } from '../ir/value.js';
import type { TextFacts } from '../../native/js/lm/facts.js';
import { cacheFacts } from './cache-facts.js';
import { positionFacts, rowsOf } from './positions.js';
import type { ModelIo } from './session.js';

/** Reads the facts of a model, rewritten or not. */
export function textFacts(model: Model): TextFacts {
  const known = <T>(name: keyof TextFacts, value: T | undefined) => (value === undefined ? {} : { [name]: value });
  const dims = cacheDims(model);
  return {
    ...known('vocabulary', embeddingRows(model)),
    ...(Object.keys(dims).length > 0 ? { dims } : {}),
    ...cacheFacts(model),
    ...positionFacts(model),
  };
}

/** The inputs and outputs of a model as a session would describe them. */
export function modelIo(model: Model): ModelIo {
  const inputs = model.graph.inputs.filter((value) => !value.initializer);
  const metadata = (value: Value): InferenceSession.ValueMetadata => ({
    name: value.name,
    isTensor: true,
    type: (value.dtype ?? 'float32') as Tensor.Type,
    shape: (value.shape ?? []).map((dim) => dim ?? ''),
  });
  return {
    inputNames: inputs.map((value) => value.name),
    outputNames: model.graph.outputs.map((value) => value.name),
    inputMetadata: inputs.map(metadata),
    outputMetadata: model.graph.outputs.map(metadata),
  };
}

/** Rows of the smallest constant that an integer input gathers from: embeddings of ids, also behind a Cast or Reshape. */
function embeddingRows(model: Model): number | undefined {
  const rows = model.graph.inputs
    .filter((value) => /(^|_)(ids|tokens)$/.test(value.name) && !/position|type/.test(value.name))
    .flatMap((value) => indexUses(value, 3))
    .map((node) => rowsOf(node.input(0)))
    .filter((count) => count !== undefined);
  return rows.length > 0 ? Math.min(...rows) : undefined;
}

function indexUses(value: Value, depth: number): Node[] {
  return value.uses.flatMap(({ node, index }) => {
    if (node.opType === 'Gather' && index === 1) return [node];
    const through = depth > 0 && index === 0 && ['Cast', 'Reshape', 'Identity'].includes(node.opType);
    return through && node.output(0) ? indexUses(node.output(0)!, depth - 1) : [];
  });
}

/** Symbolic last dimensions of cache inputs that GroupQueryAttention fixes: the head size. */
function cacheDims(model: Model): Record<string, number> {
  const dims: Record<string, number> = {};
  for (const value of model.graph.inputs) {
    const last = value.shape?.at(-1);
    const attention = value.uses.map(({ node }) => node).find((node) => node.opType === 'GroupQueryAttention');
    if (typeof last !== 'string' || !attention) continue;
    const size = headSize(attention);
    if (size !== undefined) dims[last] = size;
  }
  return dims;
}

/** Width of the queries (with keys and values where they are packed) by the number of heads in it, else twice the rotation table's. */
function headSize(attention: Node): number | undefined {
  const heads = attrInt(attention, 'num_heads', 0);
  const packed = attention.input(1) === undefined;
  const total = packed ? heads + 2 * attrInt(attention, 'kv_num_heads', heads) : heads;
  const query = attention.input(0);
  const width = query && widthOf(query, 4);
  if (width !== undefined && total > 0 && width % total === 0) return width / total;
  const table = attention.input(7)?.constant()?.dims[1];
  return table === undefined ? undefined : 2 * table;
}

/** Last dimension of a value, by its declaration or by the linear layer that made it. */
function widthOf(value: Value, depth: number): number | undefined {
  const declared = value.shape?.at(-1);
  if (typeof declared === 'number') return declared;
  const producer = value.producer;
  if (!producer || depth === 0) return undefined;
  if (producer.opType === 'QuantGemm') return attrInt(producer, 'N');
  if (producer.opType === 'MatMul') return producer.input(1)?.constant()?.dims[1];
  if (producer.opType === 'MatMulNBits') return attrInt(producer, 'N');
  const input = producer.inputs.find((each) => each && !each.constant());
  return input && ['Add', 'Cast', 'Identity'].includes(producer.opType) ? widthOf(input, depth - 1) : undefined;
}
