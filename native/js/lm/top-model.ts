/**
 * An ONNX model of one node: TopK over the last of three dimensions, the lower index of equal ones first. Written by hand as protobuf, which
 * for one node takes less than a library: a message is a list of fields, each a key (number · 8 + wire type) and a value.
 */

/** A number below 128; everything in this model is. */
const number = (field: number, value: number): number[] => [field * 8, value];
const bytes = (field: number, value: readonly number[]): number[] => {
  // A length of more than seven bits takes two bytes.
  const length = value.length < 128 ? [value.length] : [(value.length & 127) | 128, value.length >> 7];
  return [field * 8 + 2, ...length, ...value];
};
const text = (field: number, value: string): number[] => bytes(field, [...Buffer.from(value)]);

const elementTypes = { float32: 1, float16: 10, int64: 7 } as const;

function valueInfo(name: string, type: keyof typeof elementTypes, dims: readonly string[]): number[] {
  const shape = dims.flatMap((dim) => bytes(1, text(2, dim)));
  const tensor = [...number(1, elementTypes[type]), ...bytes(2, shape)];
  return [...text(1, name), ...bytes(2, bytes(1, tensor))];
}

/** The model: `scores` [batch, tokens, vocabulary] and `k` [1] → `largest` and `ids` int64, both [batch, tokens, k], the largest first. */
export function topModel(type: 'float32' | 'float16'): Uint8Array {
  const node = ['scores', 'k'].flatMap((name) => text(1, name));
  for (const name of ['largest', 'ids']) node.push(...text(2, name));
  node.push(...text(4, 'TopK'));
  const graph = [
    ...[...bytes(1, node), ...text(2, 'top')],
    ...bytes(11, valueInfo('scores', type, ['batch', 'tokens', 'vocabulary'])),
    ...bytes(11, valueInfo('k', 'int64', ['one'])),
    ...bytes(12, valueInfo('largest', type, ['batch', 'tokens', 'k'])),
    ...bytes(12, valueInfo('ids', 'int64', ['batch', 'tokens', 'k'])),
  ];
  const opset = [...text(1, ''), ...number(2, 13)];
  return Uint8Array.from([...number(1, 8), ...bytes(7, graph), ...bytes(8, opset)]);
}
