/**
 * The CUDA provider against the CPU's: perplexity of rewritten models, equal within 0.1 %.
 * usage: node dist/test/gpu/provider.js TOKENS.npy WINDOWS MODEL.onnx…
 */
import { textFacts, perplexity, readTokens } from '../../graph-rewrite/lm/index.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { InferenceSession } from '../../native/js/index.js';

const largestDifference = 1e-3;
const [tokens, windowCount, ...models] = process.argv.slice(2);
if (tokens === undefined || models.length === 0) {
  console.error('provider: no models given, expected TOKENS.npy WINDOWS MODEL.onnx…');
  process.exit(2);
}
const ids = readTokens(tokens);

interface Measured {
  readonly perplexity: number;
  readonly tokensPerSecond: number;
}

async function measure(model: string, provider: 'cpu' | 'cuda'): Promise<Measured> {
  const session = await InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 3 });
  try {
    const facts = textFacts(loadModel(model));
    const result = await perplexity(session, ids, { facts, windows: Number(windowCount) });
    return { perplexity: result.perplexity, tokensPerSecond: result.tokens / result.seconds };
  } finally {
    await session.release();
  }
}

const text = (name: string, { perplexity, tokensPerSecond }: Measured) =>
  `${name} ${perplexity.toFixed(4)} (${tokensPerSecond.toFixed(0)} tokens/s)`;

let failed = 0;
for (const model of models) {
  try {
    const [cpu, cuda] = [await measure(model, 'cpu'), await measure(model, 'cuda')];
    const difference = Math.abs(cuda.perplexity / cpu.perplexity - 1);
    const ok = difference <= largestDifference;
    if (!ok) failed++;
    const apart = `${(100 * difference).toFixed(4)} % apart`;
    console.log(`${ok ? 'ok  ' : 'FAIL'} ${model}: ${text('cpu', cpu)}, ${text('cuda', cuda)}, ${apart}`);
  } catch (error) {
    failed++;
    console.log(`FAIL ${model}: ${(error as Error).message.split('\n')[0]}`);
  }
}
process.exitCode = failed === 0 ? 0 : 1;
