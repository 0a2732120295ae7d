/**
 * `npm run bench [-- --only gemm,rows,kv,models,generate,generate-1b --samples N --threads 1,2 --json FILE]`: tables on stdout, all numbers in the JSON file.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { usageError } from '../ops/common/errors.js';
import { table } from '../graph-rewrite/cli/ui/table.js';
import { nativeInfo } from '../native/js/index.js';
import { benchGemm, gemmCases, schemes, type GemmResult } from './kernels.js';
import { benchGeneration, generationCases, type GenerationResult } from './generate.js';
import { benchKvAttention, kvCases, type KvResult } from './kv-attention.js';
import { measureCeiling } from './measure.js';
import { benchModels, buildModels, type ModelResult } from './models.js';
import { benchRowOp, rowOpCases, type RowOpResult } from './row-ops.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const parts = ['gemm', 'rows', 'kv', 'models', 'generate', 'generate-1b'] as const;
/** The last one builds a model of 4.4 GB, and is run when it is asked for. */
const usual = parts.filter((part) => part !== 'generate-1b');

const options = new Command()
  .option('--only <parts>', `comma list of ${parts.join(', ')}`, usual.join(','))
  .option('--samples <n>', 'timed runs of each', '11')
  .option('--threads <list>', 'thread counts', [...new Set([1, availableParallelism()])].join(','))
  .option('--json <file>', 'where to write all numbers')
  .parse()
  .opts<{ only: string; samples: string; threads: string; json?: string }>();

const chosen = options.only.split(',');
const unknown = chosen.find((part) => !(parts as readonly string[]).includes(part));
if (unknown !== undefined) throw usageError('--only', `is "${unknown}", expected a list of ${parts.join(', ')}`);
const samples = Number(options.samples);
const threads = options.threads.split(',').map(Number);
if (![samples, ...threads].every((each) => Number.isInteger(each) && each > 0)) {
  throw usageError('--samples, --threads', 'not whole numbers above 0');
}

const us = (value: number): string => (value < 100 ? value.toFixed(1) : value.toFixed(0));
const times = (value: number): string => `${value.toFixed(2)}x`;

/** Columns: time and GOP/s of ours, then how many times faster than each peer. */
function gemmRows({ K, N, M, threads: count, times: all }: GemmResult): string[][] {
  const nbits = all['MatMulNBits']!.median;
  const float = all['MatMul float32']!.median;
  return Object.keys(schemes).map((name) => {
    const { median } = all[name]!;
    const gops = (2 * M * K * N) / median / 1e3;
    return [
      ...[String(count), `${K} x ${N}`, String(M), name, us(median), gops.toFixed(0), us(nbits), us(float)],
      ...[times(nbits / median), times(float / median)],
    ];
  });
}

const results = {
  gemm: [] as GemmResult[],
  rows: [] as RowOpResult[],
  kv: [] as KvResult[],
  models: [] as ModelResult[],
  generations: [] as GenerationResult[],
};

if (chosen.includes('gemm')) {
  for (const one of gemmCases(threads)) {
    process.stderr.write(`gemm ${one.K} x ${one.N}, M ${one.M}, ${one.threads} threads\n`);
    results.gemm.push(await benchGemm(one, samples));
  }
  console.log(
    '\nQuantGemm: median µs a node, beside MatMulNBits (4 bits, block 128, accuracy level 4) and float32 MatMul\n',
  );
  const head = ['threads', 'K x N', 'M', 'scheme', 'µs', 'GOP/s', 'NBits µs', 'float µs', 'vs NBits', 'vs float'];
  console.log(table(head, results.gemm.flatMap(gemmRows)));
  const ceiling = measureCeiling();
  if (ceiling)
    console.log(`\none thread at most: ${ceiling.vnniGops} GOP/s (VNNI), ${ceiling.readGigabytes} GB/s cached reads`);
}

if (chosen.includes('rows')) {
  for (const one of rowOpCases(threads)) {
    process.stderr.write(`NormQuantize ${one.hidden}, M ${one.rows}, ${one.threads} threads\n`);
    results.rows.push(await benchRowOp(one, samples));
  }
  console.log("\nNormQuantize (reorder, s4 groups of 128, 128 outliers) beside ONNX Runtime's norm alone\n");
  const head = ['threads', 'hidden', 'M', 'residual', 'µs', 'norm alone µs', 'ratio'];
  const rows = results.rows.map((each) => [
    ...[String(each.threads), String(each.hidden), String(each.rows), each.residual ? 'yes' : 'no'],
    ...[us(each.microseconds), us(each.peerMicroseconds), each.ratio.toFixed(2)],
  ]);
  console.log(table(head, rows));
}

if (chosen.includes('kv')) {
  for (const one of kvCases(threads)) {
    process.stderr.write(`QuantKvAttention ${one.tokens} after ${one.past}, ${one.threads} threads\n`);
    results.kv.push(await benchKvAttention(one, samples));
  }
  console.log('\nQuantKvAttention, 4-bit cache, beside GroupQueryAttention in float32: µs a run, growing cache\n');
  const head = ['threads', 'heads', 'head size', 'new', 'past', 'keys', 'µs', 'GQA µs', 'vs GQA'];
  const rows = results.kv.map((each) => [
    ...[String(each.threads), `${each.heads}/${each.kvHeads}`, String(each.headDim)],
    ...[String(each.tokens), String(each.past), `${each.kvRope} RoPE`],
    ...[us(each.time.median), us(each.peer.median), times(each.peer.median / each.time.median)],
  ]);
  console.log(table(head, rows));
}

if (chosen.includes('models')) {
  const files = await buildModels(join(root, '.cache/bench'), join(root, 'models/bookworm-11m'));
  for (const count of threads) {
    process.stderr.write(`bookworm-11m, ${count} threads\n`);
    results.models.push(...(await benchModels(files, count, samples)));
  }
  console.log('\nbookworm-11m, milliseconds a run (times faster than float32)\n');
  const names = [...files.keys()];
  const rows = results.models.map(({ threads: count, phase, times: all }) => [
    ...[String(count), phase],
    ...names.map((name) => {
      const { median } = all[name]!;
      return `${(median / 1e3).toFixed(2)} (${times(all['float32']!.median / median)})`;
    }),
  ]);
  console.log(table(['threads', 'phase', ...names], rows));
}

for (const part of ['generate', 'generate-1b'] as const) {
  if (!chosen.includes(part)) continue;
  for (const one of generationCases[part]) {
    for (const count of one.rounds > 1 ? threads : threads.slice(-1)) {
      process.stderr.write(`${one.title}, ${count} threads\n`);
      results.generations.push(...(await benchGeneration(one, count, join(root, '.cache/bench'))));
    }
  }
}
if (results.generations.length > 0) {
  console.log(
    '\nGeneration, batch 1, through the Generator: tokens a second, resident memory before and at its peak\n',
  );
  const head = ['model', 'threads', 'recipe', 'prompt', 'new', 'prefill', 'decode', 'before MB', 'peak MB'];
  const rows = results.generations.map((each) => [
    ...[each.title, String(each.threads), each.name, String(each.promptTokens), String(each.newTokens)],
    ...[each.prefillTokensPerSecond.toFixed(0), each.decodeTokensPerSecond.toFixed(1)],
    ...[each.loadedBytes, each.peakBytes].map((bytes) => (bytes / 1e6).toFixed(0)),
  ]);
  console.log(table(head, rows));
}

const peakRssBytes = process.resourceUsage().maxRSS * 1024;
console.log(
  `\n${cpus()[0]?.model ?? 'unknown CPU'}, ${cpus().length} threads; peak memory ${(peakRssBytes / 1e6).toFixed(0)} MB`,
);
if (options.json !== undefined) {
  const { runtime, operatorLibrary } = nativeInfo();
  const machine = { cpu: cpus()[0]?.model, cores: cpus().length, features: operatorLibrary.description.cpu.features };
  writeFileSync(
    options.json,
    `${JSON.stringify({ machine, runtime: runtime.version, peakRssBytes, ...results }, undefined, 2)}\n`,
  );
}
