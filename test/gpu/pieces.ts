/**
 * Texts in one piece and token by token, through a quantized cache: perplexity equal within 0.2 %.
 * usage: node dist/test/gpu/pieces.js PROVIDER TOKENS.npy WINDOWS MODEL.onnx…
 */
import { basename } from 'node:path';
import { cutWindows } from '../../graph-rewrite/lm/tokens.js';
import { readTokens } from '../../graph-rewrite/lm/index.js';
import { InferenceSession } from '../../native/js/index.js';
import { nllInPieces } from '../e2e/pieces.js';

const length = 512;
const largestDifference = 2e-3;
/** Windows in a batch: the scores of all their tokens are in memory at once. */
const batch = 25;

const [provider, tokens, windowCount, ...models] = process.argv.slice(2);
if ((provider !== 'cpu' && provider !== 'cuda') || models.length === 0) {
  console.error('pieces: expected PROVIDER TOKENS.npy WINDOWS MODEL.onnx… with a provider cpu or cuda.');
  process.exit(2);
}
const windows = cutWindows(readTokens(tokens!), { length, count: Number(windowCount), extra: 1, at: tokens! });

async function perplexity(session: InferenceSession, size: number): Promise<number> {
  let sum = 0;
  for (let start = 0; start < windows.length; start += batch) {
    const texts = windows.slice(start, start + batch);
    sum += texts.length * (await nllInPieces(session, texts, size)).nll;
  }
  return Math.exp(sum / windows.length);
}

for (const path of models) {
  const session = await InferenceSession.create(path, { executionProviders: [provider], logSeverityLevel: 3 });
  const whole = await perplexity(session, length);
  const single = await perplexity(session, 1);
  await session.release();
  const difference = Math.abs(single / whole - 1);
  const ok = difference <= largestDifference;
  if (!ok) process.exitCode = 1;
  console.log(
    `${ok ? 'ok  ' : 'FAIL'} ${basename(path, '.onnx')} on ${provider}, ${windows.length} windows: one piece ${whole.toFixed(4)}, ` +
      `token by token ${single.toFixed(4)}, ${(100 * difference).toFixed(4)} % apart`,
  );
}
