/**
 * An ONNX model of one node: ArgMax over the last of three dimensions, the first of equal ones. Written by hand as protobuf, which for one
 * node takes less than a library: a message is a list of fields, each a key (number · 8 + wire type) and a value.
 */

/** A number below 128; everything in this model is. */
const number = (field: number, value: number): number[] => [field * 8, value];
const bytes = (field: number, value: readonly number[]): number[] => {
  // A key or a length of more than seven bits takes two bytes.
  const varint = (n: number) => (n < 128 ? [n] : [(n & 127) | 128, n >> 7]);
  return [...varint(field * 8 + 2), ...varint(value.length), ...value];
};
const text = (field: number, value: string): number[] => bytes(field, [...Buffer.from(value)]);

const elementTypes = { float32: 1, float16: 10, int64: 7 } as const;

function valueInfo(name: string, type: keyof typeof elementTypes, dims: readonly string[]): number[] {
  const shape = dims.flatMap((dim) => bytes(1, text(2, dim)));
  const tensor = [...number(1, elementTypes[type]), ...bytes(2, shape)];
  return [...text(1, name), ...bytes(2, bytes(1, tensor))];
}

/** AttributeProto: name, i, type INT (its field has number 20). */
const attribute = (name: string, value: number): number[] => [...text(1, name), ...number(3, value), 160, 1, 2];

/** The model: `scores` [batch, tokens, vocabulary] → `ids` int64 [batch, tokens]. */
export function argmaxModel(type: 'float32' | 'float16'): Uint8Array {
  const node = [
    ...[...text(1, 'scores'), ...text(2, 'ids'), ...text(4, 'ArgMax')],
    ...[...bytes(5, attribute('axis', 2)), ...bytes(5, attribute('keepdims', 0))],
  ];
  const graph = [
    ...[...bytes(1, node), ...text(2, 'argmax')],
    ...bytes(11, valueInfo('scores', type, ['batch', 'tokens', 'vocabulary'])),
    ...bytes(12, valueInfo('ids', 'int64', ['batch', 'tokens'])),
  ];
  const opset = [...text(1, ''), ...number(2, 13)];
  return Uint8Array.from([...number(1, 8), ...bytes(7, graph), ...bytes(8, opset)]);
}
