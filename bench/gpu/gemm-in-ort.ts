/**
 * Times matrix products inside ONNX Runtime: models of many products, each with weights of its own so that no cache holds them, inputs
 * and outputs on the device, kernels replayed as a CUDA graph where that works. What a run costs without products is taken off.
 * usage: node dist/bench/gpu/gemm-in-ort.js FOLDER OUT.json [--provider cpu] [--small] [--seconds N] [--only NAME]
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Tensor } from 'onnxruntime-common';
import { saveModel } from '../../graph-rewrite/index.js';
import { buildOpModel } from '../../models/op-model.js';
import { type InferenceSession, Tensor as HostTensor } from '../../native/js/index.js';
import { emptyRun, log, median, openOnDevice, Placer, reasonOf, type Provider } from './device.js';
import { gemmSchemes, type Fed, type GemmScheme, type GemmShape } from './gemm-schemes.js';
import { bytes, codes, halves } from './pattern.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    provider: { type: 'string', default: 'cuda' },
    small: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '120' },
    only: { type: 'string', default: '' },
  },
});
const [folder, out] = positionals;
if (folder === undefined || out === undefined) {
  console.error('gemm-in-ort: too few arguments, expected FOLDER OUT.json');
  process.exit(2);
}
const provider = values.provider as Provider;
const end = performance.now() + 1000 * Number(values.seconds);
const shapes: GemmShape[] = values.small
  ? [{ K: 256, N: 128 }]
  : [
      { K: 4096, N: 11008 },
      { K: 11008, N: 4096 },
      { K: 4096, N: 4096 },
      { K: 8192, N: 28672 },
    ];
const rows = values.small ? [1, 16] : [1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
const samples = values.small ? 2 : 7;
/** More than any cache holds. */
const rotated = values.small ? 1e5 : 2.2e8;
/** Products in a model: what starting a run costs is shared by so many. All results of a run stay in memory: 12 of 8192 x 28672, in ten
 * sessions, were too many. */
const leastCopies = values.small ? 2 : 8;

interface Prepared {
  readonly scheme: GemmScheme;
  readonly copies: number;
  readonly session: InferenceSession;
  readonly placer: Placer;
  readonly mode: 'CUDA graph' | 'plain';
}

mkdirSync(folder, { recursive: true });
const results: Record<string, unknown>[] = [];
const base = await emptyRun(provider);
log(`a run of one small addition: ${base.toFixed(1)} µs`);
for (const shape of shapes) {
  const prepared: Prepared[] = [];
  for (const scheme of gemmSchemes(shape)) {
    if (!scheme.name.includes(values.only)) continue;
    const ready = await prepare(scheme, shape);
    if (ready) prepared.push(ready);
  }
  for (const M of rows) {
    if (performance.now() > end) break;
    const us = await measure(prepared, M);
    results.push({
      ...shape,
      M,
      us,
      weightBytes: Object.fromEntries(prepared.map((p) => [p.scheme.name, p.scheme.weightBytes])),
    });
    const text = Object.entries(us).map(([name, time]) => `${name} ${time === null ? '-' : time.toFixed(1)}`);
    log(`M ${M} K ${shape.K} N ${shape.N} (µs)  ${text.join(' | ')}`);
    writeFileSync(out, JSON.stringify({ provider, runMicroseconds: base, results }, null, 1));
  }
  for (const { session } of prepared) await session.release();
}
rmSync(folder, { recursive: true, force: true });

/** Opens a model of copies of a product; as a CUDA graph if one run of it can be captured. */
async function prepare(scheme: GemmScheme, { K, N }: GemmShape): Promise<Prepared | undefined> {
  const copies = Math.max(leastCopies, Math.ceil(rotated / scheme.weightBytes));
  const file = join(folder!, `${scheme.name.replaceAll(/\W/g, '_')}-${K}-${N}.onnx`);
  await saveModel(buildOpModel({ ...scheme.spec, copies }), file, { force: true });
  // Nobody uses the results of the copies, so nothing may be optimized away.
  const options = { graphOptimizationLevel: 'disabled' as const, ...(scheme.extra ? { extra: scheme.extra } : {}) };
  for (const mode of provider === 'cuda' ? (['CUDA graph', 'plain'] as const) : (['plain'] as const)) {
    try {
      const session = await openOnDevice(file, {
        provider,
        graph: mode === 'CUDA graph',
        options: { ...onDevice(), ...options },
      });
      const ready = { scheme, copies, session, placer: new Placer(session, provider), mode };
      const { run, dispose } = await feeds(ready, 1, '99');
      await run();
      dispose();
      rmSync(`${file}_data`, { force: true });
      return ready;
    } catch (error) {
      log(`${scheme.name} K ${K} N ${N} (${mode}): ${reasonOf(error)}`);
    }
  }
  return undefined;
}

function onDevice(): object {
  return provider === 'cuda' ? { preferredOutputLocation: 'gpu-buffer' } : {};
}

function fedTensor({ name, dtype, width }: Fed, M: number, format: string): Tensor {
  const count = M * width;
  if (dtype === 'float32') return new HostTensor('float32', new Float32Array(count).fill(0.01), [M, width]);
  if (dtype === 'float16') return new HostTensor('float16', halves(count) as never, [M, width]);
  const data = name === 'a' ? codes(format, count) : bytes(count);
  return new HostTensor('int8', new Int8Array(data.buffer), [M, width]);
}

/** One run of a model with M rows. */
async function feeds(
  { scheme, session, placer, mode }: Prepared,
  M: number,
  graph: string,
): Promise<{ run: () => Promise<unknown>; dispose: () => void }> {
  const format = String(scheme.spec.attributes['a_format'] ?? '');
  const fed: Record<string, Tensor> = {};
  for (const each of scheme.fed) fed[each.name] = await placer.place(fedTensor(each, M, format));
  const y = await placer.allocate('float16', [M, Number(scheme.spec.outputs[0]!.dims[1])]);
  const options = mode === 'CUDA graph' ? { extra: { gpu_graph_id: graph } } : {};
  return {
    run: () => session.run(fed, { y }, options),
    dispose: () => {
      for (const tensor of [...Object.values(fed), y]) if (tensor.location === 'gpu-buffer') tensor.dispose();
    },
  };
}

/** Microseconds of one product by scheme, medians of runs that take turns; null for one that failed. */
async function measure(prepared: readonly Prepared[], M: number): Promise<Record<string, number | null>> {
  const us: Record<string, number | null> = {};
  const running: { each: Prepared; run: () => Promise<unknown>; dispose: () => void; times: number[] }[] = [];
  for (const each of prepared) {
    try {
      const ready = await feeds(each, M, String(M));
      await ready.run();
      await ready.run();
      running.push({ each, ...ready, times: [] });
    } catch (error) {
      us[each.scheme.name] = null;
      log(`${each.scheme.name} M ${M}: ${reasonOf(error)}`);
    }
  }
  for (let sample = 0; sample < samples; sample++) {
    for (const { run, times } of running) {
      await run(); // wakes the session's thread, which slept while the others ran
      const begin = performance.now();
      await run();
      times.push(1e3 * (performance.now() - begin));
    }
  }
  for (const { each, times, dispose } of running) {
    us[each.scheme.name] = (median(times) - base) / each.copies;
    dispose();
  }
  return us;
}
