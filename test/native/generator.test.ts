/**
 * Generation with real models: a batch of prompts of different lengths gives, token for token, what each prompt gives alone, whatever the
 * attention and the form of its cache.
 */
import { deepEqual, equal, ok, rejects } from 'node:assert/strict';
import { InferenceSession as OrtSession } from 'onnxruntime-node';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, loadModel, makePlan, textFacts, withSettings } from '../../graph-rewrite/index.js';
import type { Model } from '../../graph-rewrite/ir/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { buildLlama, type LlamaOptions } from '../../models/build-llama.js';
import { presets } from '../../models/llama-config.js';
import { randomSource } from '../../models/weights.js';
import {
  Generator,
  InferenceSession,
  type DecodingOptions,
  type GenerateOptions,
  type GeneratorOptions,
  type TextFacts,
} from '../../native/js/index.js';
import type { ModelSession } from '../../native/js/lm/index.js';
import { zooPath } from '../helpers/zoo.js';

const prompts = [
  [7, 200, 31, 8],
  [5, 99, 12],
  [9, 14, 77, 130, 2, 250, 41],
  [18, 3, 66, 1, 90],
];
const quiet = { intraOpNumThreads: 1, logSeverityLevel: 3 as const };

const tiny = (options: LlamaOptions) => () => buildLlama(presets['tiny']!, randomSource(3), options);
const zoo = (name: string) => () => loadModel(zooPath(name));

function rewritten(make: () => Model, recipe: string, settings: readonly string[] = []): Model {
  const model = make();
  const analysis = analyze(model);
  applyPlan(model, makePlan(analysis, undefined, withSettings(findRecipe(recipe), settings), model), analysis);
  return model;
}

/** As if the graph were not known. */
const unpadded = ({ vocabulary, dims, positions }: TextFacts): TextFacts => ({
  ...(vocabulary === undefined ? {} : { vocabulary }),
  ...(dims ? { dims } : {}),
  ...(positions === undefined ? {} : { positions }),
});

/** What each prompt gives alone. */
async function alone(generator: Generator, maxNewTokens: number): Promise<number[][]> {
  const all: number[][] = [];
  for (const prompt of prompts) {
    const { texts } = await generator.generate({ prompts: [prompt], maxNewTokens });
    all.push(texts[0]!.ids);
  }
  return all;
}

interface Case {
  readonly title: string;
  readonly make: () => Model;
  readonly facts: Pick<TextFacts, 'padding' | 'cache' | 'pieces'>;
}

const gqa = tiny({ attention: 'gqa' });
const decomposed = tiny({ attention: 'decomposed' });
const cases: readonly Case[] = [
  { title: 'GroupQueryAttention', make: gqa, facts: { padding: 'right', cache: 'shareable', pieces: 'one' } },
  {
    title: 'GroupQueryAttention in float16',
    make: tiny({ attention: 'gqa', dtype: 'float16' }),
    facts: { padding: 'right', cache: 'shareable', pieces: 'one' },
  },
  ...(['decomposed', 'mha', 'onnx'] as const).map((attention): Case => ({
    title: `attention of the form ${attention}`,
    make: tiny({ attention }),
    facts: { padding: 'left', cache: 'growing' },
  })),
  ...['llama_kv_dynamo18', 'llama_kv_dynamo23', 'llama_kv_ts14', 'gpt2_kv_dynamo18', 'gpt2_kv_ts17'].map(
    (name): Case => ({ title: name, make: zoo(name), facts: { padding: 'left', cache: 'growing' } }),
  ),
  ...['opt_kv_dynamo18', 'opt_kv_ts17'].map((name): Case => ({
    title: name,
    make: zoo(name),
    facts: { padding: 'left', cache: 'growing' },
  })),
  {
    title: 'a quantized cache with lengths',
    make: () => rewritten(gqa, 'kv4'),
    facts: { padding: 'right', cache: 'growing', pieces: 'any' },
  },
  {
    title: 'a quantized cache with a mask',
    make: () => rewritten(decomposed, 'kv4'),
    facts: { padding: 'left', cache: 'growing', pieces: 'any' },
  },
  {
    title: 'quantized layers and cache',
    make: () => rewritten(gqa, 'w8a8', ['kv.bits=8']),
    facts: { padding: 'right', cache: 'growing', pieces: 'any' },
  },
  ...(
    [
      ['GroupQueryAttention', gqa],
      ['plain nodes', decomposed],
      ['MultiHeadAttention', tiny({ attention: 'mha' })],
      ['Attention', tiny({ attention: 'onnx' })],
      ['llama_kv_dynamo18', zoo('llama_kv_dynamo18')],
      ['llama_kv_ts17', zoo('llama_kv_ts17')],
      ['gpt2_kv_ts17', zoo('gpt2_kv_ts17')],
      ['opt_kv_dynamo18', zoo('opt_kv_dynamo18')],
    ] as const
  ).map(([title, make]): Case => ({
    title: `a quantized cache in place, from ${title}`,
    make: () => rewritten(make, 'kv4', ['kv.form=in_place']),
    facts: { padding: 'right', cache: 'in_place', pieces: 'any' },
  })),
  { title: 'no cache', make: zoo('llama_nocache_dynamo18'), facts: {} },
];

describe('native/generator', () => {
  for (const { title, make, facts: expected } of cases) {
    it(`${title}: a batch equals its texts alone`, async () => {
      const model = make();
      const facts = textFacts(model);
      const { padding, cache, pieces } = facts;
      const actual = { ...(padding ? { padding } : {}), ...(cache ? { cache } : {}), ...(pieces ? { pieces } : {}) };
      deepEqual(actual, expected);
      const bytes = serializeModel(model);
      const generator = await Generator.create(bytes, { facts, session: quiet });
      const expectedIds = await alone(generator, 12);
      const { texts } = await generator.generate({ prompts, maxNewTokens: 12 });
      deepEqual(
        texts.map(({ ids }) => ids),
        expectedIds,
      );
      const cut = await generator.generate({ prompts, maxNewTokens: 12, tokensPerRun: 8 });
      const cutAlone = await generator.generate({ prompts: [prompts[2]!], maxNewTokens: 12, tokensPerRun: 2 });
      deepEqual(
        [...cut.texts, ...cutAlone.texts].map(({ ids }) => ids),
        [...expectedIds, expectedIds[2]],
      );
      await generator.release();
      if (cache === 'in_place') return;
      // What is not known about the graph costs time, but no token.
      const careful = await Generator.create(bytes, { facts: unpadded(facts), session: quiet });
      const again = await careful.generate({ prompts, maxNewTokens: 12 });
      deepEqual(
        again.texts.map(({ ids }) => ids),
        expectedIds,
      );
      await careful.release();
    });
  }

  it('a cache in place gives the texts of one that grows', async () => {
    for (const make of [gqa, decomposed, zoo('llama_kv_dynamo18'), zoo('gpt2_kv_ts17'), zoo('opt_kv_dynamo18')]) {
      const [growing, inPlace] = await Promise.all(
        ['growing', 'in_place'].map(async (form) => {
          const generator = await Generator.create(serializeModel(rewritten(make, 'kv4', [`kv.form=${form}`])), {
            session: quiet,
          });
          const { texts } = await generator.generate({ prompts, maxNewTokens: 20 });
          await generator.release();
          return texts.map(({ ids }) => ids);
        }),
      );
      deepEqual(inPlace, growing);
    }
  });

  it('texts that end early leave the others alone', async () => {
    const quantized = [gqa, decomposed].flatMap((make) =>
      ['growing', 'in_place'].map((form) => () => rewritten(make, 'kv4', [`kv.form=${form}`])),
    );
    for (const make of [gqa, decomposed, ...quantized]) {
      const model = make();
      const generator = await Generator.create(serializeModel(model), { facts: textFacts(model), session: quiet });
      const expected = await alone(generator, 16);
      const lengths = [2, 16, 5, 9];
      const counts = [0, 0, 0, 0];
      const { texts } = await generator.generate({
        prompts,
        maxNewTokens: 16,
        onToken: (i) => ++counts[i]! < lengths[i]!,
      });
      deepEqual(
        texts.map(({ ids }) => ids),
        expected.map((ids, i) => ids.slice(0, lengths[i])),
      );
      await generator.release();
    }
  });

  it('runs with a session of onnxruntime-node', async () => {
    for (const make of [gqa, decomposed]) {
      const model = make();
      const bytes = serializeModel(model);
      const facts = textFacts(model);
      const own = await Generator.create(bytes, { facts, session: quiet });
      const session = await OrtSession.create(bytes, quiet);
      const theirs = await Generator.create(session as unknown as ModelSession, { facts });
      const [expected, actual] = [
        await own.generate({ prompts, maxNewTokens: 12 }),
        await theirs.generate({ prompts, maxNewTokens: 12, signal: new AbortController().signal }),
      ];
      deepEqual(
        actual.texts.map(({ ids }) => ids),
        expected.texts.map(({ ids }) => ids),
      );
      await own.release();
      await session.release();
    }
  });

  it('goes on with several tokens as if they had been in the prompt', async () => {
    for (const make of [gqa, decomposed, () => rewritten(gqa, 'kv4'), zoo('llama_nocache_dynamo18')]) {
      const model = make();
      const generator = await Generator.create(serializeModel(model), { facts: textFacts(model), session: quiet });
      for (const batch of [1, 2]) {
        const [beginning, more] = [
          prompts.slice(0, batch),
          [prompts[2]!.slice(0, 3), prompts[3]!.slice(0, 3)].slice(0, batch),
        ];
        const whole = await generator.start(beginning.map((prompt, b) => [...prompt, ...more[b]!]));
        const pieces = await generator.start(beginning, { capacity: 64 });
        const scores = await pieces.decoding.append(more);
        deepEqual(await scores.largest(), await whole.scores.largest());
        deepEqual(pieces.decoding.lengths, whole.decoding.lengths);
        await rejects(pieces.decoding.append(more.map(() => [])), /ids\[0\]: has 0 tokens, expected at least one/);
        for (const { decoding } of [whole, pieces]) decoding.dispose();
      }
      await generator.release();
    }
  });

  it('a rewritten model says itself what the loop must know', async () => {
    const model = rewritten(gqa, 'w8a8');
    const session = await InferenceSession.create(serializeModel(model), quiet);
    ok(session.modelMetadata.get('lowbit.version'));
    const { model: text } = await Generator.create(session);
    const { vocab, maxPositions } = presets['tiny']!;
    deepEqual([text.vocabulary, text.padding, text.cache, text.positions], [vocab, 'right', 'shareable', maxPositions]);
    await session.release();
  });

  it('draws the same text for one seed, and each text of a batch as if it were alone', async () => {
    const model = gqa();
    const generator = await Generator.create(serializeModel(model), { facts: textFacts(model), session: quiet });
    const options = { maxNewTokens: 10, temperature: 1, topK: 50, topP: 0.95, repetitionPenalty: 1.1, seed: 3 };
    const first = await generator.generate({ prompts, ...options });
    const second = await generator.generate({ prompts, ...options });
    deepEqual(
      second.texts.map(({ ids }) => ids),
      first.texts.map(({ ids }) => ids),
    );
    const single = await generator.generate({ prompts: [prompts[2]!], ...options, seed: 5 });
    deepEqual(single.texts[0]!.ids, first.texts[2]!.ids);
    await generator.release();
  });

  it('is stopped by a signal in the middle of a run', async () => {
    const model = gqa();
    const generator = await Generator.create(serializeModel(model), { facts: textFacts(model), session: quiet });
    const abort = new AbortController();
    const generating = generator.generate({
      prompts,
      maxNewTokens: 400,
      signal: abort.signal,
      onToken: (i) => {
        if (i === 3) setImmediate(() => abort.abort());
      },
    });
    const { texts } = await generating;
    ok(texts.every(({ ids, stopped }) => stopped === 'aborted' && ids.length > 0 && ids.length < 400));
    await generator.release();
  });

  describe('refuses', () => {
    const open = async (make: () => Model, facts: TextFacts = {}) => {
      const model = make();
      return Generator.create(serializeModel(model), { facts: { ...textFacts(model), ...facts }, session: quiet });
    };

    it('options that are none: a misspelt device is not the CPU', async () => {
      const bytes = serializeModel(gqa());
      const wrong = (options: object) => Generator.create(bytes, options as GeneratorOptions);
      await rejects(wrong({ device: 'gpu' }), /^TypeError: options\.device: is 'gpu', expected one of 'cpu', 'cuda'/);
      await rejects(wrong({ devise: 'cuda' }), /^TypeError: options\.devise: is not an option, expected one of /);
      const generator = await open(gqa);
      const write = (options: object) => generator.generate(options as GenerateOptions);
      await rejects(write({ prompts: [[1]], temprature: 1 }), /^TypeError: options\.temprature: is not an option/);
      await rejects(
        write({ prompts: 'It was' }),
        /^TypeError: options\.prompts: is 'It was', expected arrays of token/,
      );
      await rejects(
        generator.start([[1]], { seed: 1 } as DecodingOptions),
        /^TypeError: options\.seed: is not an option/,
      );
      await generator.release();
    });

    it('a text beyond the position table, before and while it is written', async () => {
      const { maxPositions } = presets['tiny']!;
      const generator = await open(gqa);
      const long = Array<number>(maxPositions + 1).fill(1);
      await rejects(
        generator.generate({ prompts: [[1], long] }),
        new RegExp(
          `^LowbitError: prompts\\[1\\]: has ${maxPositions + 1} tokens, expected at most ${maxPositions}, the rows`,
        ),
      );
      const { decoding } = await generator.start([long.slice(1)]);
      equal(decoding.hasRoom(0), false);
      await rejects(
        decoding.step([1]),
        /^LowbitError: sequence 0: has \d+ tokens, expected at most \d+, the rows of the/,
      );
      decoding.dispose();
      await rejects(decoding.step([1]), /decoding: it was disposed/);
      const { texts } = await generator.generate({ prompts: [long.slice(3)], maxNewTokens: 9 });
      deepEqual([texts[0]!.ids.length, texts[0]!.stopped], [3, 'context']);
      await generator.release();
    });

    for (const name of ['gpt2_kv_dynamo18', 'gpt2_kv_ts17', 'opt_kv_ts17'])
      it(`${name}: a text beyond the position table, which padding on the left does not shorten`, async () => {
        const generator = await open(zoo(name));
        const { positions } = textFacts(loadModel(zooPath(name)));
        const batch = [Array.from({ length: positions! - 5 }, (_, i) => i % 50), prompts[0]!];
        const { texts } = await generator.generate({ prompts: batch, maxNewTokens: 12 });
        deepEqual([texts[0]!.ids.length, texts[0]!.stopped], [6, 'context']);
        const one = await generator.generate({ prompts: [prompts[0]!], maxNewTokens: 12 });
        deepEqual([texts[1]!.ids, texts[1]!.stopped], [one.texts[0]!.ids, 'length']);
        await generator.release();
      });

    it('columns beyond the rotation of a quantized cache, padding among them', async () => {
      const { maxPositions } = presets['tiny']!;
      const generator = await open(() => rewritten(decomposed, 'kv4'));
      const batch = [Array<number>(maxPositions - 2).fill(1), prompts[0]!];
      const { texts } = await generator.generate({ prompts: batch, maxNewTokens: 9 });
      deepEqual(
        texts.map(({ ids, stopped }) => [ids.length, stopped]),
        [
          [3, 'context'],
          [3, 'context'],
        ],
      );
      await generator.release();
    });

    it('a text beyond the capacity of the cache', async () => {
      const generator = await open(gqa);
      const long = Array<number>(40).fill(1);
      await rejects(
        generator.start([long], { capacity: 20 }),
        /^LowbitError: prompts\[0\]: has 40 tokens, expected at most 32, the capacity of the cache\. Give a larger capacity/,
      );
      const { decoding } = await generator.start([long.slice(8)], { capacity: 32 });
      await rejects(decoding.step([1]), /^LowbitError: sequence 0: has 33 tokens, expected at most 32, the capacity/);
      decoding.dispose();
      await generator.release();
    });

    it('ids that do not belong to the batch or the vocabulary', async () => {
      const generator = await open(gqa);
      const { decoding } = await generator.start([[1], [2]]);
      await rejects(decoding.step([1]), /^LowbitError: ids: has 1 tokens, expected 2, one for each sequence/);
      await rejects(decoding.step([1, 99999]), /^LowbitError: ids: has token id 99999, the model's vocabulary has/);
      await rejects(
        decoding.append([[1, 2], [3]]),
        /^LowbitError: ids\[1\]: has 1 tokens, expected at least one and as/,
      );
      await rejects(decoding.step([1, 2], { signal: AbortSignal.abort(new Error('enough')) }), /enough/);
      await rejects(decoding.step([1, 2]), /decoding: it was disposed/);
      decoding.dispose();
      await generator.release();
    });

    it('different lengths in one start where padding is not known', async () => {
      const model = gqa();
      const facts = unpadded(textFacts(model));
      const generator = await Generator.create(serializeModel(model), { facts, session: quiet });
      await rejects(
        generator.start([[1], [2, 3]]),
        /^LowbitError: prompts\[1\]: has 2 tokens, expected 1 as in prompts\[0\]: how to pad this model is not known/,
      );
      await generator.release();
    });

    it('models that are no language models, and options for a session that is there', async () => {
      const session = await InferenceSession.create(serializeModel(gqa()), quiet);
      await rejects(
        Generator.create(session, { device: 'cuda' }),
        /options: device, cudaGraph and session are for a model/,
      );
      await session.release();
      await rejects(Generator.create(serializeModel(gqa()), { cudaGraph: true }), /cudaGraph: is true on cpu/);
    });
  });
});
