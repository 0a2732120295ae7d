/**
 * Times attention inside ONNX Runtime: one step after a long context, and prompts. Each attention of a model has a cache of its own in
 * place, or one of so many that the GPU's cache does not hold them; kernels are replayed as a CUDA graph where that works.
 * usage: node dist/bench/gpu/attention-in-ort.js OUT.json [--provider cpu] [--small] [--seconds N]
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Tensor } from 'onnxruntime-common';
import { type InferenceSession, Tensor as HostTensor } from '../../native/js/index.js';
import {
  attentionModel,
  attentionSchemes,
  cacheTensors,
  type AttentionScheme,
  type AttentionShape,
} from './attention-models.js';
import { emptyRun, log, median, openOnDevice, Placer, reasonOf, type Provider } from './device.js';
import { bytes, halves } from './pattern.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    provider: { type: 'string', default: 'cuda' },
    small: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '60' },
  },
});
const [out] = positionals;
if (out === undefined) {
  console.error('attention-in-ort: no arguments, expected OUT.json');
  process.exit(2);
}
const provider = values.provider as Provider;
const end = performance.now() + 1000 * Number(values.seconds);
const llama7b = { heads: 32, kvHeads: 32, headDim: 128 };
const shapes: AttentionShape[] = values.small
  ? [{ heads: 4, kvHeads: 2, headDim: 64, batch: 2, tokens: 1, total: 64 }]
  : [
      { ...llama7b, batch: 128, tokens: 1, total: 1024 },
      { ...llama7b, batch: 64, tokens: 1, total: 1024 },
      { ...llama7b, batch: 16, tokens: 1, total: 2048 },
      { ...llama7b, batch: 1, tokens: 1, total: 4096 },
      { ...llama7b, batch: 1, tokens: 2048, total: 2048 },
      { ...llama7b, kvHeads: 8, batch: 16, tokens: 1, total: 2048 },
    ];
const samples = values.small ? 2 : 9;
/** Attentions in a model: what starting a run costs is shared by so many. */
const leastCopies = values.small ? 3 : 16;

interface Running {
  readonly scheme: AttentionScheme;
  readonly copies: number;
  readonly mode: string;
  readonly session: InferenceSession;
  readonly run: () => Promise<unknown>;
  readonly times: number[];
}

const base = await emptyRun(provider);
const results: Record<string, unknown>[] = [];
for (const shape of shapes) {
  if (performance.now() > end) break;
  const running: Running[] = [];
  for (const scheme of attentionSchemes) {
    const ready = await prepare(shape, scheme);
    if (ready) running.push(ready);
  }
  for (let sample = 0; sample < samples; sample++) {
    for (const { run, times } of running) {
      await run(); // wakes the session's thread, which slept while the others ran
      const begin = performance.now();
      await run();
      times.push(1e3 * (performance.now() - begin));
    }
  }
  const rows = running.map(({ scheme, copies, mode, times }) => ({
    scheme: scheme.name,
    mode,
    ...speed(shape, scheme, copies, times),
  }));
  results.push({ ...shape, rows });
  log(`batch ${shape.batch}, ${shape.tokens} new of ${shape.total}, ${shape.kvHeads} kv heads`);
  for (const row of rows)
    log(`  ${row.scheme} (${row.mode}): ${row.us.toFixed(1)} µs, ${row.cacheGBps.toFixed(0)} GB/s of cache`);
  writeFileSync(out, JSON.stringify({ provider, runMicroseconds: base, results }, null, 1));
  for (const { session } of running) await session.release();
}

/** Microseconds of one attention, and how fast it reads its cache. */
function speed(shape: AttentionShape, scheme: AttentionScheme, copies: number, times: readonly number[]) {
  const each = (time: number) => (time - base) / copies;
  const us = each(median(times));
  return { us, best: each(Math.min(...times)), cacheGBps: cacheBytes(shape, scheme) / us / 1e3 };
}

function cacheBytes(shape: AttentionShape, scheme: AttentionScheme): number {
  const size = (dims: readonly number[]) => dims.reduce((product, dim) => product * dim, 1);
  return cacheTensors(shape, scheme).reduce(
    (sum, { dtype, dims }) => sum + size(dims) * (dtype === 'float16' ? 2 : 1),
    0,
  );
}

/** Opens a model of several attentions; as a CUDA graph if one run of it can be captured. */
async function prepare(shape: AttentionShape, scheme: AttentionScheme): Promise<Running | undefined> {
  const caches = Math.min(32, Math.max(2, Math.ceil((values.small ? 1e5 : 2.5e8) / cacheBytes(shape, scheme))));
  const copies = Math.max(leastCopies, caches);
  for (const mode of provider === 'cuda' ? ['CUDA graph', 'plain'] : ['plain']) {
    try {
      const model = attentionModel(shape, scheme, copies);
      const session = await openOnDevice(model, {
        ...{ provider, graph: mode === 'CUDA graph' },
        options: {
          graphOptimizationLevel: 'disabled',
          ...(provider === 'cuda' ? { preferredOutputLocation: 'gpu-buffer' as const } : {}),
        },
      });
      const run = await prepareRun(session, shape, scheme, { copies, caches });
      for (let i = 0; i < 3; i++) await run();
      return { scheme, copies, mode, session, run, times: [] };
    } catch (error) {
      log(`${scheme.name} batch ${shape.batch} (${mode}): ${reasonOf(error)}`);
    }
  }
  return undefined;
}

async function prepareRun(
  session: InferenceSession,
  shape: AttentionShape,
  scheme: AttentionScheme,
  { copies, caches }: { copies: number; caches: number },
): Promise<() => Promise<unknown>> {
  const { batch, tokens, heads, kvHeads, headDim, total } = shape;
  const placer = new Placer(session, provider);
  const rows = (count: number) => {
    const dims = [batch, tokens, count * headDim];
    return placer.place(new HostTensor('float16', halves(batch * tokens * count * headDim) as never, dims));
  };
  // GroupQueryAttention counts from the last token's index, ours the tokens.
  const lengths = new Int32Array(batch).fill(scheme.bits === 16 ? total - 1 : total);
  const feeds: Record<string, Tensor> = {
    ...{ q: await rows(heads), k: await rows(kvHeads), v: await rows(kvHeads) },
    lengths: await placer.place(new HostTensor('int32', lengths, [batch])),
  };
  const fetches: Record<string, Tensor> = { y0: await placer.allocate('float16', [batch, tokens, heads * headDim]) };
  for (const { slot, dtype, dims } of cacheTensors(shape, scheme)) {
    const count = dims.reduce((product, dim) => product * dim, 1);
    const data = dtype === 'uint8' ? bytes(count) : halves(count);
    const source = new HostTensor(dtype, data as never, [...dims]);
    const tensors: Tensor[] = [];
    for (let cache = 0; cache < caches; cache++) tensors.push(await placer.place(source));
    for (let copy = 0; copy < copies; copy++) {
      const tensor = tensors[copy % caches]!;
      feeds[`past.${slot}${copy}`] = tensor;
      fetches[`present.${slot}${copy}`] = tensor;
    }
  }
  return () => session.run(feeds, fetches);
}
