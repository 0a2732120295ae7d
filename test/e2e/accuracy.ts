/**
 * npm run test:accuracy: every graph, plain and injected, every step of the ladder, 100 windows each; the table goes to
 * docs/accuracy.md and into its picture. `npm test` runs a part of it (accuracy.test.ts).
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { table } from '../../graph-rewrite/cli/ui/table.js';
import { writePictures } from '../../bench/pictures/index.js';
import type { BookwormKind } from '../../models/bookworm.js';
import { root } from '../cli/run-cli.js';
import { evaluate, ModelFolder, rewriteModel, type RewriteReport, type Weights } from './bookworm.js';
import { floatPerplexity, ladder, verdict, type Expectation } from './expectations.js';

const graphs: readonly BookwormKind[] = ['dynamo', 'genai', 'built'];
const windows = 100;

interface Row {
  readonly scheme: string;
  readonly expected: Readonly<Record<Weights, number>>;
  readonly measured: Map<string, number>;
  bits: number;
}

async function main(): Promise<number> {
  const folder = new ModelFolder();
  const failures: string[] = [];
  const rows: Row[] = [];
  try {
    const float: Row = {
      scheme: 'float32',
      expected: { plain: floatPerplexity, injected: floatPerplexity },
      measured: new Map(),
      bits: 32,
    };
    rows.push(float, ...ladder.map(emptyRow));
    for (const graph of graphs) {
      for (const weights of ['plain', 'injected'] as const) {
        const model = await folder.float(graph, weights);
        float.measured.set(`${graph} ${weights}`, (await evaluate(model, windows)).perplexity);
        for (const [i, step] of ladder.entries()) {
          const output = join(folder.path, 'rewritten.onnx');
          const report: RewriteReport = await rewriteModel(model, output, step);
          const { perplexity } = await evaluate(output, windows);
          const row = rows[i + 1]!;
          row.measured.set(`${graph} ${weights}`, perplexity);
          row.bits = report.bitsPerWeight.real;
          const failure = verdict(step, weights, perplexity);
          if (failure) failures.push(`${graph} ${weights}: ${failure}`);
          console.error(`${graph} ${weights} · ${step.scheme}: ${perplexity.toFixed(3)}${failure ? ' FAILED' : ''}`);
        }
      }
    }
  } finally {
    folder.remove();
  }
  console.log(table(head(), rows.map(cells)));
  for (const failure of failures) console.log(failure);
  writeFileSync(join(root, 'docs/accuracy.md'), document(rows));
  writePictures();
  return failures.length === 0 ? 0 : 1;
}

function emptyRow({ scheme, plain, injected }: Expectation): Row {
  return { scheme, expected: { plain, injected }, measured: new Map(), bits: 0 };
}

function head(): string[] {
  return [
    'scheme',
    'bits',
    ...(['plain', 'injected'] as const).flatMap((weights) => [
      `expected ${weights}`,
      ...graphs.map((graph) => `${graph} ${weights}`),
    ]),
  ];
}

function cells({ scheme, bits, expected, measured }: Row): string[] {
  const number = (value: number | undefined): string =>
    value === undefined ? '-' : value.toFixed(value < 1000 ? 3 : 0);
  return [
    scheme,
    bits.toFixed(2),
    ...(['plain', 'injected'] as const).flatMap((weights) => [
      number(expected[weights]),
      ...graphs.map((graph) => number(measured.get(`${graph} ${weights}`))),
    ]),
  ];
}

function document(rows: readonly Row[]): string {
  const line = (words: readonly string[]): string => `| ${words.join(' | ')} |`;
  return [
    '# Accuracy',
    '',
    'Perplexity of bookworm-11m over 100 windows of 512 tokens of held-out books (`models/bookworm-11m/eval-tokens.npy`), rewritten and really run on the CPU.',
    '"Expected" is an independent simulation in PyTorch (of free scales for Atom with scales in powers of two); "injected" is the same function with outlier channels 32 times as large as the rest.',
    '"Bits" counts codes, scales and outlier channels per weight of the rewritten layers. Written by `npm run test:accuracy`.',
    '',
    '![Perplexity of bookworm-11m under each recipe, as trained and with outlier channels](img/perplexity.svg)',
    '',
    line(head()),
    line(head().map((_, i) => (i === 0 ? '---' : '---:'))),
    ...rows.map((row) => line(cells(row))),
    '',
    'Other recipes are in [recipes.md](recipes.md), GPTQ in [gptq.md](gptq.md), the 4-bit cache in [kv-cache.md](kv-cache.md).',
    '',
  ].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main();
