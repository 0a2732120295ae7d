/** The trained model as every graph the tests use, plain and with injected outliers, made once per process. */
import { findRecipe, needsCalibration, withSettings } from '../../graph-rewrite/recipes/index.js';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { injectOutliers } from '../../models/inject-outliers.js';
import { materializeBookworm, type BookwormKind } from '../../models/bookworm.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { saveModel } from '../../graph-rewrite/onnx/write.js';
import { root, runCli } from '../cli/run-cli.js';
import type { Expectation } from './expectations.js';

export type Weights = 'plain' | 'injected';

const assets = join(root, 'models/bookworm-11m');
export const evalTokens = join(assets, 'eval-tokens.npy');
export const tokenizer = join(assets, 'tokenizer.json');
export const calibrationText = join(assets, 'calibration.txt');

/** A folder of models; `remove` it at the end. */
export class ModelFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'ort-lowbit-e2e-'));
  readonly #made = new Map<string, Promise<string>>();

  /** Path of the float model. */
  float(graph: BookwormKind, weights: Weights): Promise<string> {
    const key = `${graph}-${weights}`;
    let made = this.#made.get(key);
    if (!made) this.#made.set(key, (made = this.#make(graph, weights)));
    return made;
  }

  async #make(graph: BookwormKind, weights: Weights): Promise<string> {
    const folder = join(this.path, `${graph}-${weights}`);
    mkdirSync(folder);
    if (weights === 'plain') return materializeBookworm(graph, folder);
    const model = loadModel(await this.float(graph, 'plain'));
    injectOutliers(model);
    const path = join(folder, 'model.onnx');
    await saveModel(model, path);
    return path;
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** The report of `rewrite MODEL --json`. */
export interface RewriteReport {
  readonly input: { readonly bytes: number };
  readonly output: { readonly path: string; readonly bytes: number; readonly files: readonly string[] };
  readonly sites: { readonly quantized: number; readonly kept: number };
  readonly kept: readonly { readonly name: string; readonly reason: string }[];
  readonly bitsPerWeight: { readonly predicted: number; readonly real: number };
  readonly seconds: number;
  readonly peakRssBytes: number;
}

/** Rewrites through the command line, as a user does; replaces an earlier output. */
export async function rewriteModel(
  model: string,
  output: string,
  {
    recipe,
    set,
    target = 'any',
    threads,
  }: Pick<Expectation, 'recipe' | 'set'> & { readonly target?: string; readonly threads?: number },
): Promise<RewriteReport> {
  const settings = set.flatMap((each) => ['--set', each]);
  const needsData = needsCalibration(withSettings(findRecipe(recipe), set));
  const calibration = needsData ? ['--calibration', calibrationText, '--tokenizer', tokenizer] : [];
  return succeed([
    model,
    '-o',
    output,
    '--recipe',
    recipe,
    '--target',
    target,
    ...settings,
    ...calibration,
    ...(threads === undefined ? [] : ['--threads', String(threads)]),
    '--force',
    '--quiet',
    '--json',
  ]);
}

/** Perplexity through the command line. */
export async function evaluate(
  model: string,
  windows: number,
): Promise<{ perplexity: number; tokens: number; seconds: number }> {
  return succeed(['eval', model, '--tokens', evalTokens, '--windows', String(windows), '--quiet', '--json']);
}

/** Runs a command that must end with 0, and returns its JSON. */
export async function succeed<T>(args: readonly string[]): Promise<T> {
  const result = await runCli(args);
  if (result.code !== 0) throw new Error(`rewrite ${args.join(' ')} ended with ${result.code}: ${result.stderr}`);
  return result.json() as T;
}
