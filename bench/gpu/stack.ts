/**
 * Times one decoder on one provider: prompts, and steps of one token with the cache in place, as they are and as CUDA graphs.
 * usage: node dist/bench/gpu/stack.js MODEL.onnx OUT.json [--provider cpu] [--graph] [--limit BYTES] [--runs N] [--threads N]
 *          CASE…     (prefill:BATCHxTOKENS, decode:BATCHxPAST, largest:BATCHxPAST = the largest batch up to this one that fits)
 */
import { writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { loadModel } from '../../graph-rewrite/index.js';
import { readCaches } from '../../graph-rewrite/passes/cache-metadata.js';
import type { InferenceSession } from '../../native/js/index.js';
import { decoderRun, disposeRun, runOnce, type RunShape } from './decoder-feeds.js';
import { log, median, memoryInUse, openOnDevice, Placer, reasonOf, timeEach, type Provider } from './device.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    provider: { type: 'string', default: 'cuda' },
    graph: { type: 'boolean', default: false },
    limit: { type: 'string' },
    runs: { type: 'string', default: '10' },
    threads: { type: 'string' },
  },
});
const [model, out, ...cases] = positionals;
if (model === undefined || out === undefined || cases.length === 0) {
  console.error('stack: too few arguments, expected MODEL.onnx OUT.json CASE…');
  process.exit(2);
}
const provider = values.provider as Provider;
const label = `${basename(model, '.onnx')}${values.graph ? ' (CUDA graph)' : ''}`;
const cache = cacheForm(model);
const before = memoryInUse(provider);
const results: Record<string, unknown>[] = [];
let session = await open();
const loaded = memoryInUse(provider) - before;
for (const [i, text] of cases.entries()) {
  const [, kind, batch, tokens] = /^(\w+):(\d+)x(\d+)$/.exec(text) ?? [];
  try {
    results.push(
      kind === 'largest'
        ? await largest(text, Number(batch), Number(tokens))
        : await measure(text, i + 1, shapeOf(kind, Number(batch), Number(tokens))),
    );
  } catch (error) {
    results.push({ case: text, error: reasonOf(error) });
    log(`${label}  ${text}: ${reasonOf(error)}`);
  }
  save();
}
await session.release();

function save(): void {
  const facts = {
    model: basename(model!),
    provider,
    graph: values.graph,
    limit: values.limit,
    cache,
    loadedMiB: loaded,
  };
  writeFileSync(out!, JSON.stringify({ ...facts, results }, null, 1));
}

async function open(): Promise<InferenceSession> {
  const begin = performance.now();
  const limit = values.limit === undefined ? {} : { memoryLimit: Number(values.limit) };
  const options = values.threads === undefined ? {} : { options: { intraOpNumThreads: Number(values.threads) } };
  const opened = await openOnDevice(model!, { provider, graph: values.graph, ...limit, ...options });
  log(`${label}: loaded in ${((performance.now() - begin) / 1000).toFixed(1)} s`);
  return opened;
}

/** GroupQueryAttention continues a cache in place when past and present are one buffer; our operator when the model says so. */
function cacheForm(file: string): RunShape['cache'] {
  const caches = readCaches(loadModel(file)) as readonly { readonly form?: string }[];
  return caches.every(({ form }) => form === 'in_place') ? 'in place' : 'growing';
}

function shapeOf(kind: string | undefined, batch: number, tokens: number): RunShape {
  if (kind === 'decode') return { batch, tokens: 1, past: tokens, cache };
  if (kind === 'prefill') return { batch, tokens, past: 0, cache: values.graph ? 'in place' : cache };
  throw new Error(`case: kind is ${kind}, expected prefill:BATCHxTOKENS, decode:BATCHxPAST or largest:BATCHxPAST.`);
}

/** Median milliseconds, tokens a second, and memory at its peak above what was used before the session. */
async function measure(text: string, id: number, shape: RunShape): Promise<Record<string, unknown>> {
  const run = await decoderRun(session, new Placer(session, provider), shape);
  const extra = values.graph && provider === 'cuda' ? { gpu_graph_id: String(id) } : undefined;
  try {
    // So that the arena need not grow while the graph is captured.
    if (extra) for (let i = 0; i < 2; i++) await runOnce(session, run, { gpu_graph_id: '-1' });
    const times = await timeEach(() => runOnce(session, run, extra), Number(values.runs), 3);
    const ms = median(times);
    const perSecond = (1000 * shape.batch * shape.tokens) / ms;
    const peakMiB = memoryInUse(provider) - before;
    log(`${label}  ${text}: ${ms.toFixed(3)} ms, ${perSecond.toFixed(0)} tokens/s, peak ${peakMiB} MiB`);
    return { case: text, ms, best: Math.min(...times), tokensPerSecond: perSecond, peakMiB };
  } finally {
    disposeRun(run);
    await shrink(shape);
  }
}

/** A small run that ends by giving unused memory of the arena back, so that the next case starts from the weights alone. */
async function shrink(shape: RunShape): Promise<void> {
  if (provider === 'cpu') return;
  const run = await decoderRun(session, new Placer(session, provider), { ...shape, batch: 1, tokens: 1, past: 16 });
  await runOnce(session, run, { 'memory.enable_memory_arena_shrinkage': 'gpu:0', gpu_graph_id: '-1' });
  disposeRun(run);
}

/** The largest batch that fits, found from above in steps of 3 %; each try has a session of its own. */
async function largest(text: string, start: number, past: number): Promise<Record<string, unknown>> {
  for (let batch = start; batch >= 1; batch = Math.min(batch - 1, Math.floor(batch * 0.97))) {
    try {
      const result = await measure(text, 1, { batch, tokens: 1, past, cache });
      log(`${label}  ${text}: batch ${batch} fits`);
      return { ...result, batch };
    } catch (error) {
      log(`${label}  ${text}: batch ${batch} does not fit (${reasonOf(error).slice(0, 120)})`);
      await session.release();
      session = await open();
    }
  }
  throw new Error(`largest: no batch fits, expected at least 1.`);
}
