import { deepEqual, equal, ok, rejects, throws } from 'node:assert/strict';
import type { Tensor } from 'onnxruntime-common';
import {
  describeTextModel,
  Detokenizer,
  generate,
  logSumExp,
  perplexity,
  stepFeeds,
  StopText,
  TextSession,
} from '../../graph-rewrite/lm/index.js';
import type { GenerateOptions, TextFacts, TextTokenizer } from '../../graph-rewrite/lm/index.js';
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
      { dims: { head: 8 } },
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
  const run = (
    session: ReturnType<typeof countingSession>,
    options: Partial<GenerateOptions> & Pick<GenerateOptions, 'prompts'>,
    facts: TextFacts = {},
  ) => generate(new TextSession(session, describeTextModel(session, facts)), { maxNewTokens: 3, ...options });

  for (const cache of [true, false]) {
    it(`continues greedily ${cache ? 'with' : 'without'} a cache`, async () => {
      const session = countingSession(10, { cache });
      const seen: number[] = [];
      const { texts, ...counts } = await run(session, { prompts: [[1, 2]], onToken: (_, id) => void seen.push(id) });
      deepEqual(texts, [{ ids: [3, 4, 5], stopped: 'length', promptTokens: 2 }]);
      deepEqual(seen, [3, 4, 5]);
      deepEqual([counts.promptTokens, counts.newTokens], [2, 3]);
      deepEqual(
        session.calls.map((feeds) => numbers(feeds['input_ids']).length),
        cache ? [2, 1, 1] : [2, 3, 4],
      );
      deepEqual(
        session.calls.map((feeds) => numbers(feeds['attention_mask']).length),
        [2, 3, 4],
      );
    });

    it(`continues texts of different lengths ${cache ? 'with' : 'without'} a cache`, async () => {
      const prompts = [[1, 2], [7], [3, 4, 5]];
      for (const padding of cache ? ([undefined, 'left', 'right'] as const) : [undefined]) {
        const session = countingSession(10, { cache });
        const { texts } = await run(session, { prompts, stopIds: [8] }, padding ? { padding } : {});
        deepEqual(
          texts.map(({ ids, stopped }) => [ids, stopped]),
          [
            [[3, 4, 5], 'length'],
            [[], 'stop-token'],
            [[6, 7], 'stop-token'],
          ],
        );
        // Without a way to pad, each length has its own runs.
        const shared = padding !== undefined || !cache;
        deepEqual(session.calls[0]!['input_ids']!.dims, shared ? [3, 3] : [1, 2]);
      }
    });
  }

  it('ends at a stop token, a sequence, when told or aborted, keeping what is there', async () => {
    const stopped = await run(countingSession(10), { prompts: [[1]], stopIds: [4], maxNewTokens: 9 });
    deepEqual(stopped.texts[0], { ids: [2, 3], stopped: 'stop-token', promptTokens: 1 });
    const sequence = await run(countingSession(10), { prompts: [[1]], stopSequences: [[9], [3, 4]], maxNewTokens: 9 });
    deepEqual(sequence.texts[0], { ids: [2, 3, 4], stopped: 'stop-sequence', promptTokens: 1 });
    const told = await run(countingSession(10), { prompts: [[1], [5]], onToken: (i, id) => i === 1 || id !== 2 });
    deepEqual(
      told.texts.map(({ ids, stopped }) => [ids, stopped]),
      [
        [[2], 'callback'],
        [[6, 7, 8], 'length'],
      ],
    );
    const abort = new AbortController();
    const { signal } = abort;
    const aborted = await run(countingSession(10), { prompts: [[1]], signal, onToken: () => abort.abort() });
    deepEqual(aborted.texts[0], { ids: [2], stopped: 'aborted', promptTokens: 1 });
    const never = await run(countingSession(10), { prompts: [[1]], signal });
    deepEqual([never.texts[0]!.ids, never.prefillTokensPerSecond], [[], 0]);
  });

  it('lets texts that have ended leave when half of the batch is of no use', async () => {
    const session = countingSession(10);
    const { texts } = await run(
      session,
      { prompts: [[1], [2], [3]], stopIds: [5], maxNewTokens: 6 },
      { padding: 'right' },
    );
    deepEqual(
      texts.map(({ ids }) => ids),
      [[2, 3, 4], [3, 4], [4]],
    );
    deepEqual(
      session.calls.map((feeds) => [feeds['input_ids']!.dims[0], feeds['past_key_values.0.key']!.dims[0]]),
      [
        [3, 3],
        [3, 3],
        [3, 3],
        [1, 1],
      ],
    );
  });

  it('ends where the position table does', async () => {
    const { texts } = await run(countingSession(10), { prompts: [[1, 2]], maxNewTokens: 9 }, { positions: 4 });
    deepEqual(texts[0], { ids: [3, 4, 5], stopped: 'context', promptTokens: 2 });
  });

  const refused: readonly [string, Partial<GenerateOptions> & Pick<GenerateOptions, 'prompts'>, RegExp][] = [
    ['no prompts', { prompts: [] }, /^LowbitError: prompts: has no texts, expected at least one/],
    ['an empty prompt', { prompts: [[1], []] }, /^LowbitError: prompts\[1\]: has no tokens, expected at least one/],
    ['an id of another vocabulary', { prompts: [[1, 10]] }, /^LowbitError: prompts\[0\]: has token id 10, the model's/],
    [
      'a prompt longer than the position table',
      { prompts: [[1], [1, 2, 3, 4, 5, 6]] },
      /^LowbitError: prompts\[1\]: has 6 tokens, expected at most 5, the rows of the model's position table\. Shorten/,
    ],
    ['what is no id', { prompts: [[1, 1.5]] }, /^LowbitError: prompts\[0\]: has token id 1\.5, .*integers from 0 to 9/],
    [
      'a capacity that is none',
      { prompts: [[1]], capacity: NaN },
      /^LowbitError: capacity: is NaN, expected at least 1/,
    ],
    [
      'no new tokens',
      { prompts: [[1]], maxNewTokens: 0 },
      /^LowbitError: maxNewTokens: is 0, expected an integer of at least 1/,
    ],
    [
      'ids of 64 bits',
      wrong({ prompts: [[1n]] }),
      /^LowbitError: prompts\[0\]: has token id 1n, .*integers from 0 to 9/,
    ],
    [
      'a prompt that is no list',
      wrong({ prompts: [5] }),
      /^LowbitError: prompts\[0\]: is 5, expected an array of token/,
    ],
    [
      'a stop id that is no list',
      wrong({ prompts: [[1]], stopIds: 2 }),
      /^LowbitError: stopIds: is 2, expected an array/,
    ],
    [
      'a stop id that is no number',
      wrong({ prompts: [[1]], stopIds: ['2'] }),
      /^LowbitError: stopIds: has token id 2, exp/,
    ],
    [
      'a stop sequence that is no list',
      wrong({ prompts: [[1]], stopSequences: [2] }),
      /^LowbitError: stopSequences\[0\]: is 2, expected an array of token ids/,
    ],
    [
      'a stop text for ids',
      wrong({ prompts: [[1]], stopSequences: ['ab'] }),
      /^LowbitError: stopSequences\[0\]: is "ab", expected an array of token ids/,
    ],
    [
      'a callback that is none',
      wrong({ prompts: [[1]], onToken: 'x' }),
      /^LowbitError: onToken: is "x", expected a fun/,
    ],
    ['a setting without a meaning', { prompts: [[1]], topP: 2 }, /^LowbitError: topP: is 2, expected/],
  ];
  for (const [what, options, message] of refused) {
    it(`refuses ${what}`, () =>
      rejects(run(countingSession(10), options, { positions: 5, padding: 'right' }), message));
  }
});

/** Options as plain JavaScript may give them. */
function wrong(options: object): Pick<GenerateOptions, 'prompts'> {
  return options as GenerateOptions;
}

describe('generate: what cannot go on', () => {
  it('a cache that is larger than any memory', async () => {
    const session = countingSession(10);
    const text = new TextSession(session, describeTextModel(session, { cache: 'in_place', padding: 'right' }));
    await rejects(
      generate(text, { prompts: [[1]], maxNewTokens: 1e12 }),
      /^LowbitError: past_key_values\.0\.key: a cache \[1, 2, 10+16, 4\] finds no memory \(.+\), expected a smaller one/,
    );
  });

  it('scores that are NaN, greedy or not', async () => {
    const session = countingSession(10);
    const broken = {
      ...session,
      run: async (feeds: Parameters<typeof session.run>[0]) => {
        const outputs = await session.run(feeds, []);
        ((outputs['logits'] as Tensor).data as Float32Array).fill(NaN);
        return outputs;
      },
    };
    const text = new TextSession(broken, describeTextModel(broken));
    for (const options of [{}, { temperature: 1 }, { temperature: 1, topK: 3 }, { repetitionPenalty: 2 }])
      await rejects(generate(text, { prompts: [[1]], ...options }), /^LowbitError: scores: are NaN, expected numbers/);
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
    deepEqual(stream(bytes.encode('aé🙂.')), ['a', '', 'é', '', '', '', '🙂', '.', '']);
  });

  it('does not wait for ever for bytes that are no UTF-8', () => {
    deepEqual(stream([0x61, 0xff, 0xff, 0xff, 0xff, 0x62]), ['a', '', '', '', '\ufffd'.repeat(4), 'b', '']);
    equal(stream([0x61, 0xe6, 0xbc]).join(''), 'a\ufffd');
  });
});

describe('stop texts', () => {
  const stream = (stops: readonly string[], pieces: readonly string[]) => {
    const stop = new StopText(stops);
    const given = pieces.map((piece) => stop.push(piece));
    return { given: [...given, stop.end()], stopped: stop.stopped };
  };

  it('hold back what may be one, and end in front of the first', () => {
    deepEqual(stream(['END', 'stop'], ['a E', 'N', 'D b']), { given: ['a ', '', '', ''], stopped: true });
    deepEqual(stream(['END'], ['a E', 'Nd ', 'EN']), { given: ['a ', 'ENd ', '', 'EN'], stopped: false });
    deepEqual(stream(['b', 'ab'], ['xaby', 'z']), { given: ['x', '', ''], stopped: true });
    deepEqual(stream([''], ['a', 'b']), { given: ['a', 'b', ''], stopped: false });
  });
});
