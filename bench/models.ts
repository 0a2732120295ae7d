/**
 * Whole models: the trained bookworm-11m in float and rewritten, prefill of 512 tokens and decode after it.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { calibrate, findRecipe, loadTokenizer, rewrite, textFeeds, withSettings } from '../graph-rewrite/index.js';
import { describeTextModel, nextPast, stepFeeds, textFacts, type ModelSession } from '../graph-rewrite/lm/index.js';
import { loadModel } from '../graph-rewrite/onnx/read.js';
import { materializeBookworm } from '../models/bookworm.js';
import { InferenceSession } from '../native/js/index.js';
import { quietThreads, timeRuns, type Timing } from './measure.js';

export interface ModelResult {
  readonly threads: number;
  readonly phase: 'prefill 512' | 'decode after 512';
  readonly times: Readonly<Record<string, Timing>>;
}

/** Recipes to time, with the settings that need no long calibration: rounding does not change speed. */
const timed: readonly (readonly [string, readonly string[]])[] = [
  ['w8a8', []],
  ['w4a16', []],
  ['w4a4-g128', []],
  ['atom-w4a4', ['weight.rounding=rtn']],
];

/** Builds the float model and rewrites it; returns files by name. */
export async function buildModels(folder: string, assets: string): Promise<Map<string, string>> {
  mkdirSync(folder, { recursive: true });
  const float = await materializeBookworm('built', folder);
  const files = new Map([['float32', float]]);
  const tokenizer = loadTokenizer(join(assets, 'tokenizer.json'));
  for (const [name, settings] of timed) {
    const output = join(folder, `bench-${name}.onnx`);
    await rewrite({
      input: float,
      output,
      recipe: withSettings(findRecipe(name), settings),
      force: true,
      calibrate: (model, analysis) =>
        calibrate({
          ...{ model, analysis, feeds: textFeeds(model, join(assets, 'calibration.txt'), tokenizer, { count: 4 }) },
          createSession: open,
        }),
    });
    files.set(name, output);
  }
  return files;
}

function open(model: string | Uint8Array, options: InferenceSession.SessionOptions = {}): Promise<ModelSession> {
  return typeof model === 'string' ? InferenceSession.create(model, options) : InferenceSession.create(model, options);
}

/** Times every model side by side. */
export async function benchModels(
  files: ReadonlyMap<string, string>,
  threads: number,
  samples: number,
): Promise<ModelResult[]> {
  const tokens = Array.from({ length: 512 }, (_, i) => (i * 37) % 4096);
  const sessions: ModelSession[] = [];
  const prefill: (() => Promise<unknown>)[] = [];
  const decode: (() => Promise<unknown>)[] = [];
  for (const file of files.values()) {
    const session = await open(file, { intraOpNumThreads: threads, extra: quietThreads });
    sessions.push(session);
    const text = describeTextModel(session, textFacts(loadModel(file)));
    const outputs = [text.logits, ...text.past.map(({ output }) => output)];
    const first = stepFeeds(text, tokens);
    const step = stepFeeds(text, [7], tokens.length, nextPast(text, await session.run(first, outputs)));
    prefill.push(() => session.run(first, outputs));
    decode.push(() => session.run(step, outputs));
  }
  const results: ModelResult[] = [];
  for (const [phase, runs] of [
    ['prefill 512', prefill],
    ['decode after 512', decode],
  ] as const) {
    const times = await timeRuns(runs, { threads, samples: phase === 'prefill 512' ? samples : 6 * samples });
    results.push({ threads, phase, times: Object.fromEntries([...files.keys()].map((name, i) => [name, times[i]!])) });
  }
  for (const session of sessions) await session.release();
  return results;
}
