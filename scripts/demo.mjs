// npm run demo: from a fresh clone to a trained model in 4 bits, beside the float model: size, perplexity, speed, text.
// Every step is a command that can be typed by hand; it is shown before it runs.
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { bootstrap, root } from './bootstrap.mjs';

const windows = 24;
const rounds = 2;
const prompt = 'It was a dark night, and the old man';
/** Each model draws with its own probabilities from the same random numbers. */
const sampling = ['--max-tokens', '96', '--temperature', '0.7', '--seed', '11'];
const recipes = ['w8a8', 'w4a16', 'atom-w4a4'];
const folder = join(root, '.cache/demo');
const assets = join(root, 'models/bookworm-11m');

const started = Date.now();
const say = (text = '') => console.log(text);
const elapsed = () => `${((Date.now() - started) / 1000).toFixed(0)} s`;

const shownBefore = new Set();

/** Runs a command of the CLI and returns its JSON. Each command is shown the first time. */
function rewrite(...args) {
  const shown = args.map((word) => (/[\s,]/.test(word) ? JSON.stringify(word) : word.replace(root, ''))).join(' ');
  if (!shownBefore.has(shown)) say(`  $ npx rewrite ${shown}`);
  shownBefore.add(shown);
  const result = spawnSync(process.execPath, [join(root, 'bin/rewrite.js'), ...args, '--json', '--quiet'], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (result.status !== 0) {
    console.error(`demo: that command ended with ${result.status ?? result.signal}, expected 0. Its message is above.`);
    process.exit(result.status ?? 70);
  }
  return JSON.parse(result.stdout);
}

say('Install and build what is missing');
bootstrap();
say(`  ready (${elapsed()})\n`);

say(
  'Build the float ONNX model from the trained weights (LLaMA architecture, 11.0 M parameters, trained on old books)',
);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const { materializeBookworm } = await import('../dist/models/bookworm.js');
const float = await materializeBookworm('built', folder);
say(`  ${relative(root, float)}\n`);

say('Rewrite it');
const tokenizer = join(assets, 'tokenizer.json');
const models = recipes.map((recipe) => {
  const output = join(folder, `${recipe}.onnx`);
  const calibration =
    recipe === 'atom-w4a4' ? ['--calibration', join(assets, 'calibration.txt'), '--tokenizer', tokenizer] : [];
  const report = rewrite(float, '-o', output, '--recipe', recipe, ...calibration);
  return {
    name: recipe,
    path: output,
    bytes: report.output.bytes,
    bits: report.bitsPerWeight.real,
    input: report.input.bytes,
  };
});
models.unshift({ name: 'float32', path: float, bytes: models[0].input, bits: 32 });

say(`\nMeasure each: perplexity on held-out books, ${windows} windows of 512 tokens; text from one prompt`);
const tokens = ['--tokens', join(assets, 'eval-tokens.npy'), '--windows'];
for (const model of models) {
  model.perplexity = rewrite('eval', model.path, ...tokens, String(windows)).perplexity;
  model.text = rewrite('generate', model.path, '--tokenizer', tokenizer, '--prompt', prompt, ...sampling).texts[0].text;
}

// Other programs share the machine: models take turns, and the fastest of several readings counts.
say(`\nSpeed: prefill of 512 tokens, and decoding; the best of ${rounds} readings, taken in turns`);
for (let round = 0; round < rounds; round++) {
  for (const model of models) {
    const prefill = rewrite('eval', model.path, ...tokens, '4').tokensPerSecond;
    const words = ['--tokenizer', tokenizer, '--prompt', prompt, '--max-tokens', '96'];
    const decode = rewrite('generate', model.path, ...words).decodeTokensPerSecond;
    model.prefill = Math.max(model.prefill ?? 0, prefill);
    model.decode = Math.max(model.decode ?? 0, decode);
  }
}

const { table } = await import('../dist/graph-rewrite/cli/ui/table.js');
const [reference] = models;
const times = (value, base) => `${value.toFixed(0)} (${(value / base).toFixed(2)}x)`;
say('');
say(
  table(
    ['', ...models.map(({ name }) => name)],
    [
      ['file', ...models.map(({ bytes }) => `${(bytes / 1e6).toFixed(1)} MB`)],
      ['bits per linear weight', ...models.map(({ bits }) => bits.toFixed(2))],
      [`perplexity (${windows} windows)`, ...models.map(({ perplexity }) => perplexity.toFixed(2))],
      ['prefill tokens/s', ...models.map(({ prefill }) => times(prefill, reference.prefill))],
      ['decode tokens/s', ...models.map(({ decode }) => times(decode, reference.decode))],
    ],
  ),
);
for (const { name, text } of [reference, models.at(-1)])
  say(`\n${name} writes:\n  ${prompt}${text.replaceAll('\n', '\n  ')}`);
say(`\nDone in ${elapsed()}. The models are in ${relative(root, folder)}.`);
