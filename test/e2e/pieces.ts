/** Likelihood of texts fed to a model piece by piece, through its cache. */
import type { Tensor } from 'onnxruntime-common';
import type { Feeds, ModelSession } from '../../graph-rewrite/lm/session.js';
import { describeTextModel, emptyPast, logSumExp, nextPast, readLogits, stepInputs } from '../../native/js/lm/index.js';

/**
 * Mean negative log likelihood (nats) of each next token.
 * @param texts as many tokens each, and one more to predict; all in one batch
 * @param size tokens in a piece: all for one piece, 1 for token by token
 * @returns with it the bytes of the cache at the end
 */
export async function nllInPieces(
  session: ModelSession,
  texts: readonly Int32Array[],
  size: number,
): Promise<{ nll: number; cacheBytes: number }> {
  const model = describeTextModel(session);
  const batch = texts.length;
  const length = texts[0]!.length - 1;
  let past = emptyPast(model, batch);
  let sum = 0;
  for (let start = 0; start < length; start += size) {
    const tokens = Math.min(size, length - start);
    const ids = texts.flatMap((text) => Array.from(text.subarray(start, start + tokens)));
    const positions = ids.map((_, i) => start + (i % tokens));
    const mask = new Uint8Array(batch * (start + tokens)).fill(1);
    const inputs = stepInputs(model, { batch, tokens, start, ids, positions, mask, lastOnly: false });
    const outputs = await session.run({ ...inputs, ...past }, session.outputNames);
    const { rows, vocabulary, data } = readLogits(outputs[model.logits] as Tensor, model.logits);
    for (let row = 0; row < rows; row++) {
      const scores = data.subarray(row * vocabulary, (row + 1) * vocabulary);
      const next = texts[Math.floor(row / tokens)]![start + (row % tokens) + 1]!;
      sum += logSumExp(scores) - scores[next]!;
    }
    past = nextPast(model, outputs);
  }
  return { nll: sum / (batch * length), cacheBytes: bytesOf(past) };
}

function bytesOf(feeds: Feeds): number {
  return Object.values(feeds).reduce((all, { data }) => all + (data as Uint8Array).byteLength, 0);
}
