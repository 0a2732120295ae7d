// Graphs as text, for tests and for reading.
import type { Attribute } from './attributes.js';
import type { Graph } from './graph.js';
import type { Node } from './node.js';
import type { Value } from './value.js';

/** One line per input, initializer, node and output; the same graph always gives the same text. */
export function printGraph(graph: Graph, indent = ''): string {
  const lines = [
    ...graph.inputs.map((value) => `input  ${typed(value)}`),
    ...[...graph.initializers()].map((value) => `const  ${typed(value)}`),
    ...graph.nodes.flatMap((node) => printNode(node, indent)),
    ...graph.outputs.map((value) => `output ${typed(value)}`),
  ];
  return lines.map((line) => indent + line).join('\n');
}

function printNode(node: Node, indent: string): string[] {
  const name = (value: Value | undefined) => value?.name ?? '_';
  const attributes = [...node.attributes].sort(([a], [b]) => (a < b ? -1 : 1));
  const plain = attributes
    .filter(([, value]) => value.type !== 'graph')
    .map(([key, value]) => `${key}=${printAttribute(value)}`);
  const op = node.domain === '' ? node.opType : `${node.domain}.${node.opType}`;
  return [
    `node   ${node.outputs.map(name).join(', ')} = ${op}(${[...node.inputs.map(name), ...plain].join(', ')})`,
    ...attributes.flatMap(([key, value]) =>
      value.type === 'graph' ? [`  ${key}:`, printGraph(value.value, `${indent}    `)] : [],
    ),
  ];
}

function printAttribute(attribute: Attribute): string {
  switch (attribute.type) {
    case 'tensor':
      return `${attribute.value.dtype}[${attribute.value.dims.join(',')}]`;
    case 'string':
      return JSON.stringify(attribute.value);
    case 'ints':
    case 'floats':
    case 'strings':
      return `[${attribute.value.join(',')}]`;
    case 'int':
    case 'float':
      return String(attribute.value);
    default:
      return attribute.type;
  }
}

function typed(value: Value): string {
  return `${value.name}: ${value.dtype ?? '?'}${value.shape ? `[${value.shape.map((dim) => dim ?? '?').join(',')}]` : ''}`;
}
