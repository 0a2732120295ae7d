/** The measurements behind the pictures, as docs/data and tables of the documentation hold them. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../../../', import.meta.url));

/** What bench/gpu/run.py writes, as far as pictures show it: µs by method for each shape. */
export interface Products {
  readonly gemm: readonly { M: number; K: number; N: number; us: Readonly<Record<string, number>> }[];
}

/** What bench/gpu/attention.py writes: µs of one new token, by method. */
export interface Attention {
  readonly decode: readonly {
    batch: number;
    context: number;
    kv_heads: number;
    bits: number;
    us: Readonly<Record<string, number>>;
  }[];
}

/** What scripts/gpu-models.sh measured, by the name of the result file without `.json`. */
export type Models = Readonly<
  Record<string, { results: readonly { case?: string; tokensPerSecond?: number; peakMiB: number }[] } | undefined>
>;

/** A row of docs/accuracy.md: the scheme, the one it continues ("… + GPTQ"), and its columns by name. */
export interface Accuracy {
  readonly scheme: string;
  readonly base: string;
  readonly columns: Readonly<Record<string, number>>;
}

/** A row of the first table under "Generation" in docs/performance-cpu.md: the text of its columns by name. */
export interface Generation {
  readonly model: string;
  readonly recipe: string;
  readonly columns: Readonly<Record<string, string>>;
}

export interface Results {
  readonly generation: readonly Generation[];
  readonly products: Products;
  readonly attention: Attention;
  readonly models: Models;
  readonly accuracy: readonly Accuracy[];
}

const page = (name: string): string => readFileSync(join(root, 'docs', name), 'utf8');
const data = (name: string): string => join(root, 'docs/data', name);

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}

export function readResults(): Results {
  return {
    products: readJson(data('bench.json')) as Products,
    attention: readJson(data('attention.json')) as Attention,
    models: readJson(data('models.json')) as Models,
    accuracy: accuracyRows(page('accuracy.md')),
    generation: generationRows(page('performance-cpu.md')),
  };
}

/**
 * Puts new measurements into docs/data: BENCH.json and ATTENTION.json of `npm run bench:gpu`, and the folder of results that
 * scripts/gpu-models.sh filled. A folder that lacks the whole model keeps what was measured of it before.
 */
export function storeResults(bench: string, attention: string, models: string): void {
  const old: Models = existsSync(data('models.json')) ? (readJson(data('models.json')) as Models) : {};
  const found = readdirSync(models)
    .filter((file) => /^(whole|limit|graph|generate)-.*\.json$/.test(file))
    .map((file): [string, unknown] => [file.slice(0, -'.json'.length), readJson(join(models, file))]);
  const merged = Object.entries({ ...old, ...Object.fromEntries(found) }).sort(([a], [b]) => (a < b ? -1 : 1));
  store('bench.json', readJson(bench));
  store('attention.json', readJson(attention));
  store('models.json', Object.fromEntries(merged));
}

/** As measured, to the last digit: what is printed from it then rounds once. */
function store(name: string, value: unknown): void {
  writeFileSync(data(name), JSON.stringify(value, null, 1) + '\n');
}

/** The first table of a text, without the line below its head. */
function table(markdown: string): string[][] {
  const [first = ''] = /^\|.*(\n\|.*)*/m.exec(markdown) ?? [];
  return first
    .split('\n')
    .filter((_, i) => i !== 1)
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

function accuracyRows(markdown: string): Accuracy[] {
  const [names = [], ...rows] = table(markdown);
  let base = '';
  return rows.map(([scheme = '', ...values]) => {
    if (!scheme.startsWith('…')) base = scheme;
    return { scheme, base, columns: Object.fromEntries(values.map((value, i) => [names[i + 1]!, Number(value)])) };
  });
}

function generationRows(markdown: string): Generation[] {
  const [names = [], ...rows] = table(markdown.slice(markdown.indexOf('\n## Generation\n')));
  let model = '';
  return rows.map(([named = '', recipe = '', ...values]) => {
    model = named || model;
    return { model, recipe, columns: Object.fromEntries(values.map((value, i) => [names[i + 2]!, value])) };
  });
}
