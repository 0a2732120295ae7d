/** How long a text the position tables of a model allow. */
import { sizesInRun } from '../analyze/run-sizes.js';
import { Shapes } from '../analyze/shapes.js';
import { attrInt, attrInts } from '../ir/attributes.js';
import type { Model } from '../ir/model.js';
import type { Node } from '../ir/node.js';
import type { Value } from '../ir/value.js';
import { Evaluator } from '../match/evaluate.js';
import type { Numbers } from '../match/numbers.js';
import type { TextFacts } from '../../native/js/lm/facts.js';

/** Rows of the smallest table that positions index, and what these count; nothing where there is none, or none that can be told from others. */
export function positionFacts(model: Model): Pick<TextFacts, 'positions' | 'positionsOf'> {
  // Decoders with and without a past may be the branches of an If.
  const nodes = [...model.walkGraphs()].flatMap((graph) => graph.nodes);
  const rows = [...nodes.map(rotaryRows), ...learnedRows(model, nodes)].filter((count) => count !== undefined);
  if (rows.length === 0) return {};
  return { positions: Math.min(...rows), ...(nodes.some(hasRowsOfColumns) ? {} : { positionsOf: 'texts' }) };
}

/** Whether a table has a row for each column of the cache: QuantKvAttention's rotation, and causal masks that are sliced out of a square. */
function hasRowsOfColumns(node: Node): boolean {
  if (node.opType === 'QuantKvAttention') return node.input(8) !== undefined;
  const dims = node.is('Slice') ? (node.input(0)?.constant()?.dims ?? []) : [];
  return dims.length >= 2 && dims.at(-1) === dims.at(-2);
}

/** First dimension of a constant, also of a transposed one (a tied embedding). */
export function rowsOf(value: Value | undefined): number | undefined {
  const constant = value?.constant();
  if (constant) return constant.dims[0];
  const transpose = value?.producer;
  if (transpose?.opType !== 'Transpose') return undefined;
  return transpose.input(0)?.constant()?.dims[attrInts(transpose, 'perm', [1, 0])[0]!];
}

/** Of cos and sin in attention operators. */
function rotaryRows(node: Node): number | undefined {
  if (node.opType === 'GroupQueryAttention' && attrInt(node, 'do_rotary', 0) === 1) return rowsOf(node.input(7));
  if (node.opType === 'QuantKvAttention') return rowsOf(node.input(8));
  if (node.opType !== 'RotaryEmbedding') return undefined;
  // com.microsoft's has the positions in front of the tables, ONNX's behind them; without any its tables have a row a token.
  return node.domain ? rowsOf(node.input(2)) : node.input(3) && rowsOf(node.input(1));
}

/**
 * Of embeddings that positions index, be they an input, counted from the mask, or from sizes: whatever gives a row for each token, one after the
 * other. Rows in front of the first (OPT has two) are no positions.
 */
function learnedRows(model: Model, nodes: readonly Node[]): (number | undefined)[] {
  const tables = nodes.filter(
    (node) => node.is('Gather') && attrInt(node, 'axis', 0) === 0 && node.input(0)?.constant()?.dims.length === 2,
  );
  if (tables.length === 0) return [];
  const tokens = 3;
  const ones = { dims: [1, tokens], values: [1, 1, 1] };
  const given = new Map<Value, Numbers>();
  for (const input of model.graph.inputs) {
    if (input.name.endsWith('attention_mask')) given.set(input, ones);
    if (input.name.endsWith('position_ids'))
      given.set(input, { dims: input.shape?.length === 1 ? [tokens] : [1, tokens], values: [0, 1, 2] });
  }
  const mask = model.graph.inputs.find(({ name }) => name.endsWith('attention_mask'));
  const sizes = sizesInRun(model.graph, new Shapes(model), mask, { batch: 1, tokens, past: 0 });
  const evaluator = new Evaluator(given, sizes);
  return tables.map((node) => {
    const [first = 0, ...more] = Array.from(evaluator.run(node.input(1))?.values ?? []);
    const ascend = more.length === tokens - 1 && more.every((row, i) => row === first + 1 + i);
    return ascend ? node.input(0)!.constant()!.dims[0]! - first : undefined;
  });
}
