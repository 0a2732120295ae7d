/** `rewrite generate`: text as the model writes it, and how fast it was. */
import { usageError } from '../../../ops/common/errors.js';
import type { TextTokenizer } from '../../lm/index.js';
import { Detokenizer, loadTokenizer, StopText } from '../../lm/index.js';
import type { Context } from '../context.js';
import type { CommonOptions } from '../main.js';
import { openGenerator } from '../session.js';
import { TextsView } from '../ui/texts.js';

interface Options extends CommonOptions {
  readonly tokenizer: string;
  readonly prompt: readonly string[];
  readonly stop: readonly string[];
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly repetitionPenalty: number;
  readonly seed: number;
  readonly device: 'cpu' | 'cuda';
  readonly threads?: number;
}

export async function run(context: Context, args: readonly string[], options: Options): Promise<number> {
  const model = args[0]!;
  const { prompt: prompts, maxTokens, temperature, topK, topP, repetitionPenalty, seed } = options;
  const tokenizer = loadTokenizer(options.tokenizer);
  const ids = prompts.map((prompt) => tokenizer.encode(prompt));
  const empty = ids.findIndex(({ length }) => length === 0);
  if (empty >= 0)
    throw usageError('--prompt', `${JSON.stringify(prompts[empty])} given, expected text of at least one token`);
  const generator = await openGenerator(model, options);
  try {
    const view = new TextsView((text) => context.write(text), prompts);
    const writers = prompts.map((_, i) => new Writer(tokenizer, options.stop, (piece) => view.push(i, piece)));
    const { texts, ...measured } = await generator.generate({
      prompts: ids,
      maxNewTokens: maxTokens,
      ...{ temperature, topK, topP, repetitionPenalty, seed },
      stopIds: tokenizer.stopIds,
      signal: context.signal,
      onToken: (i, id) => writers[i]!.push(id) && context.hasReader,
    });
    writers.forEach((writer, i) => {
      writer.end();
      view.end(i);
    });
    if (context.signal.aborted) {
      context.write('\n');
      context.signal.throwIfAborted();
    }
    const results = texts.map(({ ids, stopped, promptTokens }, i) => ({
      ...{ prompt: prompts[i], text: writers[i]!.text, promptTokens, tokens: ids.length },
      stopped: stopped === 'callback' ? 'stop-text' : stopped,
    }));
    context.result({ model, texts: results, ...measured }, () => '');
    const { promptTokens, newTokens, prefillTokensPerSecond, decodeTokensPerSecond } = measured;
    context.note(
      `${promptTokens} prompt tokens at ${prefillTokensPerSecond.toFixed(0)} tokens/s, ${newTokens} written at ${decodeTokensPerSecond.toFixed(0)} tokens/s`,
    );
    return 0;
  } finally {
    await generator.release();
  }
}

/** One text: ids in, certain text out. */
class Writer {
  text = '';
  readonly #pieces: Detokenizer;
  readonly #stop: StopText;
  readonly #write: (piece: string) => void;

  constructor(tokenizer: TextTokenizer, stops: readonly string[], write: (piece: string) => void) {
    this.#pieces = new Detokenizer(tokenizer);
    this.#stop = new StopText(stops);
    this.#write = write;
  }

  /** @returns false when the text has come to a stop */
  push(id: number): boolean {
    this.#give(this.#stop.push(this.#pieces.push(id)));
    return !this.#stop.stopped;
  }

  end(): void {
    this.#give(this.#stop.push(this.#pieces.end()));
    this.#give(this.#stop.end());
  }

  #give(piece: string): void {
    this.text += piece;
    this.#write(piece);
  }
}
