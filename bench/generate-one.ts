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
const { prefillTokensPerSecond, decodeTokensPerSecond } = await generator.generate({ prompts, maxNewTokens });
await generator.release();
const peakBytes = process.resourceUsage().maxRSS * 1024;
console.log(JSON.stringify({ prefillTokensPerSecond, decodeTokensPerSecond, loadedBytes, peakBytes }));
