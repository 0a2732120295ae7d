/** The measurements behind the pictures, as docs/data and docs/accuracy.md hold them. */
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

export interface Results {
  readonly products: Products;
  readonly attention: Attention;
  readonly models: Models;
  readonly accuracy: readonly Accuracy[];
}

const data = (name: string): string => join(root, 'docs/data', name);

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}

export function readResults(): Results {
  return {
    products: readJson(data('bench.json')) as Products,
    attention: readJson(data('attention.json')) as Attention,
    models: readJson(data('models.json')) as Models,
    accuracy: accuracyRows(readFileSync(join(root, 'docs/accuracy.md'), 'utf8')),
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

function accuracyRows(markdown: string): Accuracy[] {
  const [head, , ...lines] = markdown.split('\n').filter((line) => line.startsWith('|'));
  const cells = (line: string): string[] =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim());
  const names = cells(head ?? '');
  let base = '';
  return lines.map((line) => {
    const [scheme = '', ...values] = cells(line);
    if (!scheme.startsWith('…')) base = scheme;
    return { scheme, base, columns: Object.fromEntries(values.map((value, i) => [names[i + 1]!, Number(value)])) };
  });
}
