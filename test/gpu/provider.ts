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
let failed = 0;
for (const model of models) {
  const facts = textFacts(loadModel(model));
  const measured: Record<string, { perplexity: number; tokensPerSecond: number }> = {};
  for (const provider of ['cpu', 'cuda'] as const) {
    const session = await InferenceSession.create(model, { executionProviders: [provider] });
    const result = await perplexity(session, ids, { facts, windows: Number(windowCount) });
    await session.release();
    measured[provider] = { perplexity: result.perplexity, tokensPerSecond: result.tokens / result.seconds };
  }
  const { cpu, cuda } = measured;
  const difference = Math.abs(cuda!.perplexity / cpu!.perplexity - 1);
  const ok = difference <= largestDifference;
  if (!ok) failed++;
  console.log(
    `${ok ? 'ok  ' : 'FAIL'} ${model}: cpu ${cpu!.perplexity.toFixed(4)} (${cpu!.tokensPerSecond.toFixed(0)} tokens/s), ` +
      `cuda ${cuda!.perplexity.toFixed(4)} (${cuda!.tokensPerSecond.toFixed(0)} tokens/s), ` +
      `${(100 * difference).toFixed(4)} % apart`,
  );
}
process.exitCode = failed === 0 ? 0 : 1;
