// What counts as a constant.
import type { Value } from './value.js';
import { inlineTensor, tensorOf, type Tensor } from './tensor.js';

/** See `Value.constant`. */
export function constantOf(from: Value): Tensor | undefined {
  let value = from;
  while (value.producer?.is('Identity') && value.producer.input(0)) value = value.producer.input(0)!;
  if (value.initializer) {
    // Since IR version 4 an initializer that is also a graph input is a default that callers may override.
    return value.isGraphInput && value.graph.model.irVersion >= 4 ? undefined : value.initializer;
  }
  const node = value.producer;
  if (!node || node.domain !== '') return undefined;
  if (node.opType !== 'Constant') return undefined;
  const [[name, attribute] = ['', undefined]] = node.attributes;
  switch (attribute?.type) {
    case 'tensor':
      return attribute.value;
    case 'float':
      return tensorOf(Float32Array.of(attribute.value), []);
    case 'floats':
      return tensorOf(Float32Array.from(attribute.value));
    case 'int':
      return name === 'value_int' ? int64Tensor([attribute.value], []) : undefined;
    case 'ints':
      return int64Tensor(attribute.value, [attribute.value.length]);
    default:
      return undefined;
  }
}

function int64Tensor(values: readonly (number | bigint)[], dims: number[]): Tensor {
  return inlineTensor('int64', dims, new Uint8Array(BigInt64Array.from(values, BigInt).buffer));
}
