/**
 * One model writing text, in a process of its own so that its peak memory is its own.
 * usage: node dist/bench/generate-one.js MODEL PROMPT_TOKENS NEW_TOKENS THREADS, a JSON object on stdout
 */
import { textFacts } from '../graph-rewrite/lm/index.js';
import { loadModel } from '../graph-rewrite/onnx/read.js';
import { Generator } from '../native/js/index.js';
import { quietThreads } from './measure.js';

const [model, ...numbers] = process.argv.slice(2);
const [promptTokens = 128, maxNewTokens = 64, threads = 1] = numbers.map(Number);
const generator = await Generator.create(model!, {
  facts: textFacts(loadModel(model!)),
  session: { intraOpNumThreads: threads, extra: quietThreads },
});
const vocabulary = generator.model.vocabulary!;
const prompts = [Array.from({ length: promptTokens }, (_, i) => (i * 7919) % vocabulary)];
await generator.generate({ prompts: [prompts[0]!.slice(0, 8)], maxNewTokens: 4 }); // touches the weights
const loadedBytes = process.memoryUsage.rss();

/** Seconds on one thread are those that the process computes, which others on the machine hardly change; else the clock's. */
const now = () => {
  const { user, system } = process.cpuUsage();
  return threads === 1 ? (user + system) / 1e6 : performance.now() / 1e3;
};
const started = now();
let firstAt: number | undefined;
await generator.generate({ prompts, maxNewTokens, onToken: () => void (firstAt ??= now()) });
const prefillTokensPerSecond = promptTokens / (firstAt! - started);
const decodeTokensPerSecond = (maxNewTokens - 1) / (now() - firstAt!);
await generator.release();
const peakBytes = process.resourceUsage().maxRSS * 1024;
console.log(JSON.stringify({ prefillTokensPerSecond, decodeTokensPerSecond, loadedBytes, peakBytes }));
