/** `rewrite eval`: perplexity of a model on text. */
import { perplexity } from '../../lm/index.js';
import type { Context } from '../context.js';
import { openModel, requireModel } from '../session.js';
import { tokenInput, type TokenOptions } from '../text-input.js';
import { formatSeconds } from '../ui/format.js';

export async function run(context: Context, args: readonly string[], options: TokenOptions): Promise<number> {
  const model = args[0]!;
  requireModel(model);
  const { ids, at } = tokenInput(options);
  const { session, facts } = await openModel(model, options.threads);
  try {
    const { length, windows } = options;
    const measured = await perplexity(session, ids, {
      ...(length === undefined ? {} : { length }),
      windows,
      at,
      facts,
      signal: context.signal,
      onProgress: context.progress,
    });
    const tokensPerSecond = measured.tokens / measured.seconds;
    context.result({ model, ...measured, tokensPerSecond }, () =>
      [
        `perplexity ${measured.perplexity.toFixed(3)}`,
        `${measured.tokens} tokens in ${measured.windows} windows of ${measured.tokens / measured.windows}`,
        `${formatSeconds(measured.seconds)} (${tokensPerSecond.toFixed(0)} tokens/s)`,
      ].join(' · '),
    );
    return 0;
  } finally {
    await session.release();
  }
}
