import { deepEqual, equal, match, ok } from 'node:assert/strict';
import { join } from 'node:path';
import { root, runCli, scratch } from './run-cli.js';
import { writeTinyModel } from './tiny-model.js';

interface Result {
  readonly texts: readonly {
    readonly prompt: string;
    readonly text: string;
    readonly tokens: number;
    stopped: string;
  }[];
  readonly decodeTokensPerSecond: number;
}

describe('cli: rewrite generate', function () {
  this.timeout(60_000);
  const folder = scratch();
  const model = folder.file('model.onnx');
  const words = [
    'generate',
    model,
    '--tokenizer',
    join(root, 'models/bookworm-11m/tokenizer.json'),
    '--prompt',
    'The sea',
  ];
  const sampling = ['--temperature', '1', '--top-k', '200', '--top-p', '0.95', '--repetition-penalty', '1.2'];

  before(() => writeTinyModel(model, true, { vocab: 4096, maxPositions: 4096 }));
  after(() => folder.remove());

  const run = async (...more: string[]) => {
    const result = await runCli([...words, '--max-tokens', '20', ...more]);
    equal(result.code, 0, result.stderr);
    return result;
  };
  const json = async (...more: string[]) => (await run('--json', ...more)).json() as unknown as Result;

  it('writes one text after the other, as --json has them', async () => {
    const { texts } = await json('--prompt', 'It was', ...sampling);
    deepEqual(
      texts.map(({ prompt, tokens, stopped }) => [prompt, tokens, stopped]),
      [
        ['The sea', 20, 'length'],
        ['It was', 20, 'length'],
      ],
    );
    const plain = await run('--prompt', 'It was', ...sampling);
    equal(plain.stdout, `${texts.map(({ prompt, text }) => prompt + text).join('\n\n')}\n`);
    match(plain.stderr, /^\d+ prompt tokens at \d+ tokens\/s, 40 written at \d+ tokens\/s\n$/);
  });

  it('repeats itself with one seed, and not with another', async () => {
    const [first, second, other] = [
      await json(...sampling, '--seed', '4'),
      await json(...sampling, '--seed', '4'),
      await json(...sampling, '--seed', '5'),
    ];
    equal(second.texts[0]!.text, first.texts[0]!.text);
    ok(other.texts[0]!.text !== first.texts[0]!.text);
  });

  it('ends before a stop text, also one that is spread over tokens', async () => {
    const { text } = (await json()).texts[0]!;
    const at = Math.floor(text.length / 2);
    const stop = text.slice(at, at + 6);
    const stopped = (await json('--stop', 'never there', '--stop', stop)).texts[0]!;
    equal(stopped.text, text.slice(0, text.indexOf(stop)));
    equal(stopped.stopped, 'stop-text');
  });

  it('prompts that are refused leave no text behind', async () => {
    const empty = await runCli([...words, '--prompt', '']);
    deepEqual([empty.code, empty.stdout], [2, '']);
    match(empty.stderr, /^--prompt: "" given, expected text of at least one token/);
    const long = await runCli([...words, '--prompt', 'It was so. '.repeat(2000)]);
    deepEqual([long.code, long.stdout], [3, '']);
    match(long.stderr, /^prompts\[1\]: has \d+ tokens, expected at most 4096, the rows of the model's position table/);
  });

  it('Ctrl-C ends the text: exit 130', async () => {
    const long = [...words, '--max-tokens', '4000'];
    const result = await runCli(long, { interruptAt: /The sea.{20}/s });
    equal(result.code, 130, result.stderr);
    match(result.stdout, /^The sea.+\n$/s);
    match(result.stderr, /interrupted/);
  });
});
