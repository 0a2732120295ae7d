/**
 * The CUDA provider against the CPU's: perplexity of rewritten models, equal within 0.1 %.
 * usage: node dist/test/gpu/provider.js TOKENS.npy WINDOWS CPU_WINDOWS MODEL.onnx…
 * The CPU runs the first CPU_WINDOWS only, which is what the two are compared on: it takes much longer.
 */
import { basename } from 'node:path';
import { textFacts, perplexity, readTokens } from '../../graph-rewrite/lm/index.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { InferenceSession } from '../../native/js/index.js';

const largestDifference = 1e-3;
const [tokens, windowCount, cpuWindowCount, ...models] = process.argv.slice(2);
if (tokens === undefined || models.length === 0) {
  console.error('provider: no models given, expected TOKENS.npy WINDOWS CPU_WINDOWS MODEL.onnx…');
  process.exit(2);
}
const ids = readTokens(tokens);

/** Perplexity over each of these numbers of windows. */
async function measure(model: string, provider: 'cpu' | 'cuda', counts: readonly number[]): Promise<number[]> {
  const session = await InferenceSession.create(model, {
    executionProviders: [provider],
    logSeverityLevel: 3,
    intraOpNumThreads: 1, // many models are measured side by side
  });
  try {
    const facts = textFacts(loadModel(model));
    const results: number[] = [];
    for (const windows of counts) results.push((await perplexity(session, ids, { facts, windows })).perplexity);
    return results;
  } finally {
    await session.release();
  }
}

const all = Number(windowCount);
const some = Math.min(all, Number(cpuWindowCount));
let failed = 0;
for (const model of models) {
  try {
    const [whole, cuda = whole!] = await measure(model, 'cuda', some < all ? [all, some] : [all]);
    const [cpu] = await measure(model, 'cpu', [some]);
    const difference = Math.abs(cuda / cpu! - 1);
    const ok = difference <= largestDifference;
    if (!ok) failed++;
    console.log(
      `${ok ? 'ok  ' : 'FAIL'} ${basename(model, '.onnx')}: cuda ${whole!.toFixed(4)} over ${all} windows; ` +
        `over ${some} cuda ${cuda.toFixed(4)}, cpu ${cpu!.toFixed(4)}, ${(100 * difference).toFixed(4)} % apart`,
    );
  } catch (error) {
    failed++;
    console.log(`FAIL ${model}: ${(error as Error).message.split('\n')[0]}`);
  }
}
process.exitCode = failed === 0 ? 0 : 1;
