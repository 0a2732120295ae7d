/** `rewrite generate`: text as the model writes it, and how fast it was. */
import { Detokenizer, generate, loadTokenizer } from '../../lm/index.js';
import type { Context } from '../context.js';
import type { CommonOptions } from '../main.js';
import { openModel, requireModel } from '../session.js';

interface Options extends CommonOptions {
  readonly tokenizer: string;
  readonly prompt: string;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly seed: number;
  readonly threads?: number;
}

export async function run(context: Context, args: readonly string[], options: Options): Promise<number> {
  const model = args[0]!;
  requireModel(model);
  const tokenizer = loadTokenizer(options.tokenizer);
  const { session, facts } = await openModel(model, options.threads);
  try {
    const text = new Detokenizer(tokenizer);
    let written = '';
    const write = (piece: string): void => {
      written += piece;
      context.write(piece);
    };
    context.write(options.prompt);
    const { maxTokens, temperature, seed } = options;
    const generation = await generate(session, tokenizer.encode(options.prompt), {
      maxTokens,
      temperature,
      seed,
      facts,
      stopIds: tokenizer.stopIds,
      signal: context.signal,
      onToken: (id) => write(text.push(id)),
    });
    write(text.end());
    if (generation.stopped === 'aborted') {
      context.write('\n');
      context.signal.throwIfAborted();
    }

    const { promptTokens, prefillSeconds, decodeSeconds, stopped } = generation;
    const tokens = generation.ids.length;
    const prefillTokensPerSecond = promptTokens / prefillSeconds;
    // The first token comes with the prompt; the steps after it are what decoding takes.
    const decodeTokensPerSecond = tokens > 1 ? (tokens - 1) / decodeSeconds : 0;
    context.result(
      {
        model,
        text: written,
        promptTokens,
        tokens,
        stopped,
        prefillSeconds,
        decodeSeconds,
        prefillTokensPerSecond,
        decodeTokensPerSecond,
      },
      () => '',
    );
    context.note(
      `${promptTokens} prompt tokens at ${prefillTokensPerSecond.toFixed(0)} tokens/s, ${tokens} written at ${decodeTokensPerSecond.toFixed(0)} tokens/s`,
    );
    return 0;
  } finally {
    await session.release();
  }
}
