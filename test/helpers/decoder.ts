import { Tensor, type InferenceSession } from 'onnxruntime-common';

import { fromFloat16Array } from '../../ops/common/float16.js';

type Session = Pick<InferenceSession, 'inputNames' | 'inputMetadata' | 'run'>;

/** Runs a decoder with a cache over ids, in chunks of the given lengths; the logits of all positions. */
export async function decode(session: Session, ids: readonly number[], chunks: readonly number[]): Promise<Tensor[]> {
  const logits: Tensor[] = [];
  let start = 0;
  let present: Readonly<Record<string, Tensor>> = {};
  for (const length of chunks) {
    const feeds = session.inputMetadata.map((input) => {
      const past = present[input.name.replace('past_key_values', 'present')];
      return [input.name, past ?? feed(input, ids.slice(start, start + length), start)];
    });
    present = await session.run(Object.fromEntries(feeds));
    logits.push(present['logits']!);
    start += length;
  }
  return logits;
}

function feed(input: InferenceSession.ValueMetadata, ids: readonly number[], start: number): Tensor {
  const int64 = (values: number[]) => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
  if (input.name === 'input_ids') return int64([...ids]);
  if (input.name === 'position_ids') return int64(ids.map((_, i) => start + i));
  if (input.name === 'attention_mask') return int64(Array<number>(start + ids.length).fill(1));
  if (!input.isTensor) throw new Error(`input ${input.name} is no tensor`);
  const [, heads, , size] = input.shape;
  const empty = input.type === 'float16' ? new Uint16Array(0) : new Float32Array(0);
  // The genai builder leaves the head size symbolic; bookworm's is 64.
  return new Tensor(input.type, empty, [1, Number(heads), 0, typeof size === 'number' ? size : 64]);
}

/** Float tensors, one behind the other, as float32. */
export function toFloat32(tensors: readonly Tensor[]): Float32Array {
  return Float32Array.from(
    tensors.flatMap(({ type, data }) => [
      ...(type === 'float16' ? fromFloat16Array(data as Uint16Array) : (data as Float32Array)),
    ]),
  );
}
