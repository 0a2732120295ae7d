import { Tensor } from 'onnxruntime-common';
import type { InferenceSession } from 'onnxruntime-common';
import type { Feeds, ModelSession } from '../../graph-rewrite/lm/session.js';

type Shape = readonly (number | string)[];

/** Metadata of a tensor input or output. */
export function tensorMetadata(name: string, type: Tensor.Type, shape: Shape): InferenceSession.TensorValueMetadata {
  return { name, type, shape, isTensor: true };
}

/**
 * A decoder whose behaviour is known: after token t it gives t + 1 (modulo the vocabulary) a score of 5 and all others 0. Its cache holds
 * nothing but its length. Every call is recorded.
 */
export function countingSession(
  vocabulary: number,
  { cache = true }: { cache?: boolean } = {},
): ModelSession & { readonly calls: Feeds[] } {
  const pastShape: Shape = ['batch', 2, 'past', 4];
  const inputs = [
    tensorMetadata('input_ids', 'int64', ['batch', 'tokens']),
    tensorMetadata('attention_mask', 'int64', ['batch', 'all']),
    ...(cache ? [tensorMetadata('past_key_values.0.key', 'float32', pastShape)] : []),
  ];
  const outputs = [
    tensorMetadata('logits', 'float32', ['batch', 'tokens', vocabulary]),
    ...(cache ? [tensorMetadata('present.0.key', 'float32', pastShape)] : []),
  ];
  const calls: Feeds[] = [];
  return {
    calls,
    inputNames: inputs.map(({ name }) => name),
    outputNames: outputs.map(({ name }) => name),
    inputMetadata: inputs,
    outputMetadata: outputs,
    run: (feeds) => {
      calls.push({ ...feeds }); // the loop uses one object again and again
      const ids = Array.from(feeds['input_ids']!.data as BigInt64Array, Number);
      const [batch, tokens] = feeds['input_ids']!.dims as [number, number];
      const scores = new Float32Array(ids.length * vocabulary);
      ids.forEach((id, row) => (scores[row * vocabulary + ((id + 1) % vocabulary)] = 5));
      const result: Feeds = { logits: new Tensor('float32', scores, [batch, tokens, vocabulary]) };
      if (cache) {
        const length = (feeds['past_key_values.0.key']!.dims[2] ?? 0) + tokens;
        result['present.0.key'] = new Tensor('float32', new Float32Array(batch * 8 * length), [batch, 2, length, 4]);
      }
      return Promise.resolve(result);
    },
    release: () => Promise.resolve(),
  };
}
