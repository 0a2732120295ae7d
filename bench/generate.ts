/**
 * Whole generations, batch 1: tokens per second of a prompt and of the steps after it, and memory. Models take turns, each run in a process of
 * its own; the fastest of several runs counts, since others share the machine. Seconds on one thread are CPU time.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { calibrate, findRecipe, rewrite, tokenFeeds, withSettings } from '../graph-rewrite/index.js';
import { saveModel } from '../graph-rewrite/onnx/write.js';
import { bookwormFolder } from '../models/bookworm.js';
import { buildLlama } from '../models/build-llama.js';
import { presets, readConfig } from '../models/llama-config.js';
import { randomSource, safetensorsSource } from '../models/weights.js';
import { InferenceSession } from '../native/js/index.js';

export interface GenerationCase {
  readonly title: string;
  readonly model: GenerationModel;
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly rounds: number;
}

export type GenerationModel = 'bookworm-11m' | '1b';

export interface GenerationResult extends Omit<GenerationCase, 'rounds'> {
  readonly name: string;
  readonly threads: number;
  readonly prefillTokensPerSecond: number;
  readonly decodeTokensPerSecond: number;
  /** Resident memory before the generation, and its peak. */
  readonly loadedBytes: number;
  readonly peakBytes: number;
}

/** Speed of both models; memory of a long text. */
export const generationCases: Readonly<Record<'generate' | 'generate-1b', readonly GenerationCase[]>> = {
  generate: [
    { title: 'bookworm-11m', model: 'bookworm-11m', promptTokens: 128, newTokens: 64, rounds: 5 },
    { title: 'bookworm-11m, 4096 tokens', model: 'bookworm-11m', promptTokens: 64, newTokens: 4032, rounds: 1 },
  ],
  'generate-1b': [{ title: '1B, random weights', model: '1b', promptTokens: 128, newTokens: 64, rounds: 2 }],
};

/** Speed is the same with weights rounded one by one, which needs no long calibration. */
const timed: readonly (readonly [name: string, recipe: string, settings: readonly string[]])[] = [
  ['w8a8', 'w8a8', []],
  ['atom-w4a4kv4', 'atom-w4a4kv4', ['weight.rounding=rtn']],
  ['atom-w4a4kv4 in place', 'atom-w4a4kv4', ['weight.rounding=rtn', 'kv.form=in_place']],
];

/** Builds the float model and rewrites it, unless the files are there. @returns files by name */
async function buildFiles(model: GenerationModel, folder: string): Promise<Map<string, string>> {
  mkdirSync(folder, { recursive: true });
  const float = join(folder, `generate-${model}.onnx`);
  if (!existsSync(float)) {
    const built =
      model === '1b'
        ? buildLlama(presets['1b']!, randomSource(1))
        : buildLlama({ ...readConfig(bookwormFolder), maxPositions: 4096 }, safetensorsSource(bookwormFolder));
    await saveModel(built, float);
  }
  const files = new Map([['float32', float]]);
  const ids = Int32Array.from({ length: 512 }, (_, i) => (i * 7919) % 4096);
  for (const [name, recipe, settings] of timed) {
    const output = join(folder, `generate-${model}-${name.replaceAll(' ', '-')}.onnx`);
    files.set(name, output);
    if (existsSync(output)) continue;
    await rewrite({
      ...{ input: float, output, recipe: withSettings(findRecipe(recipe), settings) },
      calibrate: (graph, analysis) =>
        calibrate({
          ...{ model: graph, analysis, feeds: tokenFeeds(graph, ids, { length: 128, at: 'ids' }) },
          createSession: (source, options = {}) => InferenceSession.create(source, options),
        }),
    });
  }
  return files;
}

const program = fileURLToPath(new URL('./generate-one.js', import.meta.url));

/** Runs one case with every model. */
export async function benchGeneration(
  { rounds, ...one }: GenerationCase,
  threads: number,
  folder: string,
): Promise<GenerationResult[]> {
  const files = await buildFiles(one.model, folder);
  const best = new Map<string, GenerationResult>();
  for (let round = 0; round < rounds; round++) {
    for (const [name, file] of files) {
      const words = [program, file, ...[one.promptTokens, one.newTokens, threads].map(String)];
      const run = JSON.parse(execFileSync(process.execPath, words, { encoding: 'utf8' })) as GenerationResult;
      const before = best.get(name);
      best.set(name, {
        ...{ ...one, ...run, name, threads },
        prefillTokensPerSecond: Math.max(run.prefillTokensPerSecond, before?.prefillTokensPerSecond ?? 0),
        decodeTokensPerSecond: Math.max(run.decodeTokensPerSecond, before?.decodeTokensPerSecond ?? 0),
      });
    }
  }
  return [...best.values()];
}
