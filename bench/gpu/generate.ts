/**
 * Text generation as a program does it: the Generator, prompts of several texts, greedy choice, the cache on the device, steps replayed as
 * a CUDA graph.
 * usage: node dist/bench/gpu/generate.js MODEL.onnx OUT.json [--provider cpu] [--new N] [--plain] BATCHxPROMPT…
 */
import { writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { loadModel, textFacts } from '../../graph-rewrite/index.js';
import { Generator } from '../../native/js/index.js';
import { log, median, memoryInUse, reasonOf, type Provider } from './device.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    provider: { type: 'string', default: 'cuda' },
    new: { type: 'string', default: '64' },
    plain: { type: 'boolean', default: false },
  },
});
const [file, out, ...cases] = positionals;
if (file === undefined || out === undefined || cases.length === 0) {
  console.error('generate: too few arguments, expected MODEL.onnx OUT.json BATCHxPROMPT…');
  process.exit(2);
}
const provider = values.provider as Provider;
const maxNewTokens = Number(values.new);
const before = memoryInUse(provider);
const cudaGraph = provider === 'cuda' && !values.plain;
const generator = await Generator.create(file, {
  ...(provider === 'cuda' ? { device: provider, cudaGraph } : {}),
  facts: textFacts(loadModel(file)),
});
log(`${basename(file, '.onnx')}: loaded`);
const results: Record<string, unknown>[] = [];
for (const text of cases) {
  const [batch, prompt] = text.split('x').map(Number) as [number, number];
  const prompts = Array.from({ length: batch }, (_, b) =>
    Array.from({ length: prompt }, (_, i) => (b * 31 + i * 37) % 997),
  );
  try {
    await generator.generate({ prompts, maxNewTokens }); // captures the graph
    const runs = [];
    for (let i = 0; i < 3; i++) runs.push(await generator.generate({ prompts, maxNewTokens }));
    const prefillTokensPerSecond = median(runs.map((run) => run.prefillTokensPerSecond));
    const decodeTokensPerSecond = median(runs.map((run) => run.decodeTokensPerSecond));
    const peakMiB = memoryInUse(provider) - before;
    results.push({ batch, prompt, maxNewTokens, prefillTokensPerSecond, decodeTokensPerSecond, peakMiB });
    log(
      `${basename(file, '.onnx')}  ${batch} texts of ${prompt}: prompts ${prefillTokensPerSecond.toFixed(0)} tokens/s, ` +
        `decode ${decodeTokensPerSecond.toFixed(0)} tokens/s, peak ${peakMiB} MiB`,
    );
  } catch (error) {
    results.push({ batch, prompt, error: reasonOf(error) });
    log(`${basename(file, '.onnx')}  ${text}: ${reasonOf(error)}`);
  }
  writeFileSync(out, JSON.stringify({ model: basename(file), provider, cudaGraph, results }, null, 1));
}
await generator.release();
