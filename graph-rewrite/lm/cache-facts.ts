/** How a model's attention treats its cache, for the decoding loop. */
import type { CacheForm, Padding, TextFacts } from '../../native/js/lm/facts.js';
import { cacheSlot } from '../../native/js/lm/text-model.js';
import { attrInt } from '../ir/attributes.js';
import type { Model } from '../ir/model.js';
import type { Node } from '../ir/node.js';
import type { Value } from '../ir/value.js';

/** Where prompts are padded, whether they may be cut, and what becomes of the cache. */
export function cacheFacts(model: Model): Pick<TextFacts, 'padding' | 'cache' | 'pieces'> {
  const pasts = model.graph.inputs.filter((value) => !value.initializer && cacheSlot(value.name) !== undefined);
  if (pasts.length === 0) return {};
  const readers = pasts.flatMap((past) => readersOf(past));
  const padding = paddingOf(model, readers);
  const pieces = piecesOf(readers);
  return { ...(padding ? { padding } : {}), cache: formOf(readers), ...(pieces ? { pieces } : {}) };
}

/** Nodes that read a value, also through copies; shapes of it do not count. */
function readersOf(value: Value): Node[] {
  return value.uses.flatMap(({ node }) => {
    if (node.is('Identity')) return node.output(0) ? readersOf(node.output(0)!) : [];
    return node.is('Shape') ? [] : [node];
  });
}

const isGroupQuery = (node: Node): boolean => node.opType === 'GroupQueryAttention';
const isQuantized = (node: Node): boolean => node.opType === 'QuantKvAttention';
const inPlace = (node: Node): boolean => isQuantized(node) && attrInt(node, 'in_place', 0) === 1;
/** Input 7 of QuantKvAttention: the length of each sequence. */
const takesLengths = (node: Node): boolean => isGroupQuery(node) || (isQuantized(node) && node.input(7) !== undefined);

function paddingOf(model: Model, readers: readonly Node[]): Padding | undefined {
  if (readers.every(takesLengths)) return 'right';
  if (readers.some(takesLengths)) return undefined;
  // Padding on the left shifts a text. Its positions must say so, be it as an input or counted from the mask.
  const given = model.graph.inputs.some(({ name }) => name.endsWith('position_ids'));
  const counted = model.graph.nodes.some((node) => node.is('CumSum'));
  return given || counted ? 'left' : undefined;
}

function piecesOf(readers: readonly Node[]): TextFacts['pieces'] {
  if (!readers.every((node) => isQuantized(node) || isGroupQuery(node))) return undefined;
  return readers.some(isGroupQuery) ? 'one' : 'any';
}

function formOf(readers: readonly Node[]): CacheForm {
  if (!readers.every((node) => isGroupQuery(node) || inPlace(node))) return 'growing';
  return readers.some(inPlace) ? 'in_place' : 'shareable';
}
