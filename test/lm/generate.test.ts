import { deepEqual, equal, ok, rejects, throws } from 'node:assert/strict';
import type { Tensor } from 'onnxruntime-common';
import {
  createSampler,
  describeTextModel,
  Detokenizer,
  generate,
  logSumExp,
  perplexity,
  randomNumbers,
  stepFeeds,
} from '../../graph-rewrite/lm/index.js';
import type { TextTokenizer } from '../../graph-rewrite/lm/index.js';
import { countingSession, tensorMetadata } from '../helpers/fake-session.js';

const numbers = (tensor: Tensor | undefined) => Array.from(tensor!.data as BigInt64Array, Number);

describe('text model feeds', () => {
  it('give a decoder ids, a mask over all tokens, positions and an empty cache', () => {
    const session = countingSession(10);
    const model = describeTextModel(
      {
        ...session,
        inputMetadata: [
          ...session.inputMetadata,
          tensorMetadata('position_ids', 'int64', ['b', 's']),
          tensorMetadata('past_key_values.0.value', 'float16', ['b', 2, 'past', 'head']),
          tensorMetadata('use_cache_branch', 'bool', [1]),
        ],
        outputNames: ['logits', 'present.0.key', 'present.0.value'],
      },
      { dims: new Map([['head', 8]]) },
    );
    const feeds = stepFeeds(model, [4, 5], 3);
    deepEqual(numbers(feeds['input_ids']), [4, 5]);
    deepEqual(numbers(feeds['attention_mask']), [1, 1, 1, 1, 1]);
    deepEqual(numbers(feeds['position_ids']), [3, 4]);
    deepEqual(feeds['past_key_values.0.key']!.dims, [1, 2, 0, 4]);
    deepEqual(feeds['past_key_values.0.value']!.dims, [1, 2, 0, 8]);
    equal(feeds['past_key_values.0.value']!.type, 'float16');
    deepEqual(numbers(feeds['use_cache_branch']), [1]);
  });

  it('give an encoder its mask and token types', () => {
    const model = describeTextModel({
      ...countingSession(10, { cache: false }),
      inputMetadata: [
        tensorMetadata('input_ids', 'int64', ['b', 's']),
        tensorMetadata('attention_mask', 'int64', ['b', 's']),
        tensorMetadata('token_type_ids', 'int64', ['b', 's']),
      ],
    });
    deepEqual(numbers(stepFeeds(model, [7, 8])['token_type_ids']), [0, 0]);
    equal(model.past.length, 0);
  });

  it('say which input text cannot fill', () => {
    const session = countingSession(10);
    const withPixels = [...session.inputMetadata, tensorMetadata('pixel_values', 'float32', [1, 3, 8, 8])];
    throws(
      () => describeTextModel({ ...session, inputMetadata: withPixels }),
      /pixel_values: is an input that text cannot/,
    );
    throws(() => describeTextModel({ ...session, inputMetadata: [] }), /expected token ids named input_ids/);
  });

  it('ask for a head size that the model does not declare', () => {
    const session = countingSession(10);
    const metadata = session.inputMetadata.map((each) =>
      each.name.startsWith('past') ? tensorMetadata(each.name, 'float32', ['b', 2, 'past', 'head']) : each,
    );
    const model = describeTextModel({ ...session, inputMetadata: metadata });
    throws(() => stepFeeds(model, [1]), /past_key_values\.0\.key: has shape .*Say how large "head" is/);
  });
});

describe('perplexity', () => {
  it('scores each window on its next ids', async () => {
    const ids = Int32Array.from({ length: 9 }, (_, i) => i % 4);
    const session = countingSession(4);
    const result = await perplexity(session, ids, { length: 4, windows: 5 });
    equal(result.windows, 2);
    equal(result.tokens, 8);
    const each = Math.log(Math.exp(5) + 3) - 5;
    ok(Math.abs(result.nll - each) < 1e-6, `nll ${result.nll}, expected ${each}`);
    deepEqual(numbers(session.calls[1]!['input_ids']), [0, 1, 2, 3]);
  });

  it('refuses tokens of another vocabulary and stops when told', async () => {
    await rejects(perplexity(countingSession(4), Int32Array.of(0, 1, 9), { length: 2 }), /token id 9/);
    const signal = AbortSignal.abort();
    await rejects(perplexity(countingSession(4), new Int32Array(9), { length: 2, signal }), { code: 'interrupted' });
  });

  it('sums exponentials without overflow', () => {
    equal(logSumExp(Float32Array.of(1000, 1000)), 1000 + Math.log(2));
    ok(Number.isNaN(logSumExp(Float32Array.of(NaN, 1))) && Number.isNaN(logSumExp(Float32Array.of(Infinity))));
  });
});

describe('generate', () => {
  for (const cache of [true, false]) {
    it(`continues greedily ${cache ? 'with' : 'without'} a cache`, async () => {
      const session = countingSession(10, { cache });
      const seen: number[] = [];
      const result = await generate(session, [1, 2], { maxTokens: 3, onToken: (id) => seen.push(id) });
      deepEqual(result.ids, [3, 4, 5]);
      deepEqual(seen, [3, 4, 5]);
      equal(result.stopped, 'length');
      deepEqual(
        session.calls.map((feeds) => numbers(feeds['input_ids']).length),
        cache ? [2, 1, 1] : [2, 3, 4],
      );
      deepEqual(
        session.calls.map((feeds) => numbers(feeds['attention_mask']).length),
        [2, 3, 4],
      );
    });
  }

  it('ends at a stop token or when aborted, keeping what is there', async () => {
    const stopped = await generate(countingSession(10), [1], { stopIds: [4] });
    deepEqual([stopped.ids, stopped.stopped], [[2, 3], 'stop-token']);
    const abort = new AbortController();
    const aborted = await generate(countingSession(10), [1], { signal: abort.signal, onToken: () => abort.abort() });
    deepEqual([aborted.ids, aborted.stopped], [[2], 'aborted']);
  });
});

describe('sampling', () => {
  const logits = Float32Array.of(0, 2, 1, -1);
  const draw = (options: Parameters<typeof createSampler>[0], count = 200) => {
    const sample = createSampler(options);
    return Array.from({ length: count }, () => sample(logits));
  };

  it('repeats itself with one seed and differs with another', () => {
    deepEqual(draw({ temperature: 1, seed: 5 }), draw({ temperature: 1, seed: 5 }));
    ok(draw({ temperature: 1, seed: 5 }).join() !== draw({ temperature: 1, seed: 6 }).join());
  });

  it('keeps to the most probable tokens', () => {
    deepEqual(new Set(draw({ temperature: 1, topK: 2 })), new Set([1, 2]));
    deepEqual(new Set(draw({ temperature: 1, topP: 0.6 })), new Set([1]));
    deepEqual(new Set(draw({ temperature: 0 })), new Set([1]));
  });

  it('draws with the probabilities of softmax', () => {
    const share = draw({ temperature: 1 }, 20000).filter((id) => id === 1).length / 20000;
    const expected = Math.exp(2) / (1 + Math.exp(2) + Math.E + Math.exp(-1));
    ok(Math.abs(share - expected) < 0.015, `${share}, expected ${expected}`);
  });

  it('draws uniform numbers', () => {
    const random = randomNumbers(1);
    let sum = 0;
    for (let i = 0; i < 10000; i++) sum += random();
    ok(Math.abs(sum / 10000 - 0.5) < 0.01);
  });

  it('refuses settings without a meaning', () => {
    throws(() => createSampler({ temperature: -1 }), /temperature: is -1/);
    throws(() => createSampler({ topK: 1.5 }), /topK: is 1.5/);
    throws(() => createSampler({ topP: 0 }), /topP: is 0/);
  });
});

describe('detokenizer', () => {
  /** One id a byte; a tokenizer that drops the space of the first word, as sentencepiece does. */
  const bytes: TextTokenizer = {
    path: 'bytes',
    size: 256,
    stopIds: [],
    encode: (text) => [...Buffer.from(text)],
    decode: (ids) => Buffer.from(ids).toString('utf8').replace(/^ /, ''),
  };
  const stream = (ids: readonly number[]) => {
    const detokenizer = new Detokenizer(bytes);
    const parts = ids.map((id) => detokenizer.push(id));
    return [...parts, detokenizer.end()];
  };

  it('gives characters out when they are complete', () => {
    const text = 'a é 漢字 🙂 z';
    const parts = stream(bytes.encode(text));
    equal(parts.join(''), text);
    ok(parts.every((part) => !part.includes('\ufffd')));
  });

  it('does not wait for ever for bytes that are no UTF-8', () => {
    equal(stream([0x61, 0xff, 0xff, 0xff, 0xff, 0x62]).join(''), 'a\ufffd\ufffd\ufffd\ufffdb');
    equal(stream([0x61, 0xe6, 0xbc]).join(''), 'a\ufffd');
  });
});
