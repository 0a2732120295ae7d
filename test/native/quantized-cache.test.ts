/** A loop of one's own that feeds a quantized cache wrongly: an error that names the place, and a session that goes on working. */
import { equal, rejects } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { buildLlama } from '../../models/build-llama.js';
import { presets } from '../../models/llama-config.js';
import { randomSource } from '../../models/weights.js';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { describeTextModel, emptyPast, stepInputs, zeros, cacheDims, type Feeds } from '../../native/js/lm/index.js';

const { maxPositions } = presets['tiny']!;
const node = /\/model\/layers\/0\/self_attn\/GroupQueryAttention\/QuantKvAttention/.source;

async function open(form: 'growing' | 'in_place'): Promise<InferenceSession> {
  const model = buildLlama(presets['tiny']!, randomSource(3), { attention: 'gqa' });
  const analysis = analyze(model);
  const recipe = withSettings(findRecipe('kv4'), [`kv.form=${form}`]);
  applyPlan(model, makePlan(analysis, undefined, recipe, model), analysis);
  return InferenceSession.create(serializeModel(model), { intraOpNumThreads: 1, logSeverityLevel: 4 });
}

/** Feeds of one new token for each of `batch` texts, after `length` others, with caches of `cacheBatch` and `rows`. */
function feeds(session: InferenceSession, batch: number, length: number, cacheBatch: number, rows: number): Feeds {
  const model = describeTextModel(session);
  const cache = model.past.map(({ input }) => [input.name, zeros(input, cacheDims(model, input, cacheBatch, rows))]);
  const one = { batch, tokens: 1, start: length, ids: new Uint8Array(batch), lastOnly: true };
  const positions = new Uint16Array(batch).fill(length);
  const mask = new Uint8Array(batch * (length + 1)).fill(1);
  return { ...stepInputs(model, { ...one, positions, mask }), ...(Object.fromEntries(cache) as Feeds) };
}

describe('native/quantized cache, fed wrongly', () => {
  type Form = 'growing' | 'in_place';
  const cases: readonly (readonly [string, Form, (session: InferenceSession) => Feeds, RegExp])[] = [
    [
      'rows of another size',
      'growing',
      (session) => ({
        ...feeds(session, 1, 4, 1, 4),
        'past_key_values.0.key': new Tensor('uint8', new Uint8Array(128), [1, 2, 4, 16]),
      }),
      /input "past_key_values\.0\.key": is uint8\[1, 2, 4, 16\] with 16 at dimension 3, expected 8/,
    ],
    [
      'a float cache',
      'growing',
      (session) => ({
        ...feeds(session, 1, 4, 1, 4),
        'past_key_values.0.key': new Tensor('float32', new Float32Array(64), [1, 2, 4, 8]),
      }),
      /input "past_key_values\.0\.key": is float32\[1, 2, 4, 8\], expected the type of uint8/,
    ],
    [
      'a cache of another batch',
      'growing',
      (session) => feeds(session, 2, 4, 1, 4),
      new RegExp(`${node}: input past_k has shape \\[1,2,4,8\\], expected \\[2,2,T,8\\]`),
    ],
    [
      'keys and parameters of different lengths',
      'growing',
      (session) => ({
        ...feeds(session, 1, 4, 1, 4),
        'past_key_values.0.key_param': new Tensor('float16', new Uint16Array(12) as never, [1, 2, 3, 2]),
      }),
      new RegExp(`${node}: input past_k_param has shape \\[1,2,3,2\\], expected \\[1,2,4,2\\]`),
    ],
    [
      'a text longer than the position table',
      'growing',
      (session) => feeds(session, 1, maxPositions, 1, maxPositions),
      new RegExp(`${node}: a sequence has ${maxPositions + 1} tokens, expected at most ${maxPositions}`),
    ],
    [
      'a text longer than the capacity',
      'in_place',
      (session) => feeds(session, 1, 16, 1, 16),
      new RegExp(`${node}: lengths\\[0\\] is 17, expected 0 … 16, the capacity of the cache`),
    ],
    [
      'buffers without rows',
      'in_place',
      (session) => feeds(session, 1, 0, 1, 0),
      new RegExp(`${node}: lengths\\[0\\] is 1, expected 0 … 0, the capacity of the cache`),
    ],
    ...(['growing', 'in_place'] as const).map(
      (form) =>
        [
          'a prompt padded on the left',
          form,
          (session: InferenceSession) => ({
            ...feeds(session, 2, 4, 2, form === 'growing' ? 4 : 16),
            attention_mask: new Tensor('int64', BigInt64Array.from([1, 1, 1, 1, 1, 0, 0, 1, 1, 1], BigInt), [2, 5]),
          }),
          new RegExp(`${node}: lengths\\[1\\] is -3, expected 0 or more.*pad prompts on the right`),
        ] as const,
    ),
    [
      'buffers of another batch',
      'in_place',
      (session) => feeds(session, 1, 4, 2, 16),
      new RegExp(`${node}: input past_k has shape \\[2,2,16,8\\], expected \\[1,2,T,8\\]`),
    ],
  ];
  for (const [what, form, make, message] of cases) {
    it(`${what} (${form})`, async () => {
      const session = await open(form);
      await rejects(session.run(make(session)), message);
      const { logits } = await session.run(feeds(session, 1, 4, 1, form === 'growing' ? 4 : 16));
      equal(logits!.dims.length, 3);
      await session.release();
    });
  }

  it('an empty past is the beginning of a text', async () => {
    const session = await open('growing');
    const { logits } = await session.run({
      ...feeds(session, 2, 0, 2, 0),
      ...emptyPast(describeTextModel(session), 2),
    });
    equal(logits!.dims[0], 2);
    await session.release();
  });
});
