import type { Tensor } from 'onnxruntime-common';
import { inputError, usageError } from '../../../ops/common/errors.js';
import { Scratch, stepInputs, type Step } from './feeds.js';
import { checkIds } from './ids.js';
import { Layout } from './layout.js';
import { withoutGraph } from './captured-steps.js';
import { free, onDevice } from './memory.js';
import { Scores } from './scores.js';
import type { Feeds, StepOptions } from './session.js';
import type { TextModel } from './text-model.js';
import type { Buffers, TextSession } from './text-session.js';

export interface DecodingOptions {
  /** Most tokens of a sequence, where the cache is a buffer of fixed size; rounded up to a multiple of 16. */
  readonly capacity?: number;
  readonly signal?: AbortSignal | undefined;
}

/** A batch of texts that a model continues: the cache, the lengths, and what each run is fed. */
export class Decoding {
  /** The longest that a sequence can become: by the position table and the cache's capacity. */
  readonly limit: number;
  readonly #text: TextSession;
  readonly #layout: Layout;
  readonly #buffers: Buffers;
  readonly #scratch = new Scratch();
  #logits: Tensor | undefined;
  /** The same, if it has the shape that the next step's will have. */
  #stepLogits: Tensor | undefined;
  /** Whole texts so far, for a model without a cache. */
  readonly #texts: number[][];
  #disposed = false;

  private constructor(text: TextSession, prompts: readonly (readonly number[])[], buffers: Buffers) {
    this.#text = text;
    this.#buffers = buffers;
    this.#texts = prompts.map((prompt) => [...prompt]);
    this.#layout = new Layout(text.model.padding ?? 'right', prompts.length);
    this.limit = Math.min(text.model.positions ?? Infinity, buffers.cache.capacity ?? Infinity);
  }

  /**
   * Runs the prompts, all in one run.
   * @param prompts ids of each sequence; of one length if the model cannot pad
   * @returns the batch, and the scores of what comes after each prompt, until the next step
   * @throws input error for prompts that the model, its position table or the capacity have no room for
   */
  static async start(
    text: TextSession,
    prompts: readonly (readonly number[])[],
    { capacity, signal }: DecodingOptions = {},
  ): Promise<{ decoding: Decoding; scores: Scores }> {
    checkPrompts(text.model, prompts);
    const longest = Math.max(...prompts.map(({ length }) => length));
    const decoding = new Decoding(text, prompts, await text.acquire(prompts.length, longest, capacity));
    try {
      decoding.#checkRoom(prompts);
      return { decoding, scores: await decoding.#run(decoding.#layout.prompt(prompts), signal) };
    } catch (error) {
      decoding.dispose();
      throw error;
    }
  }

  get batch(): number {
    return this.#layout.batch;
  }

  /** Tokens of each sequence. */
  get lengths(): readonly number[] {
    return this.#layout.lengths;
  }

  /** Whether one more token of a sequence fits. */
  hasRoom(sequence: number): boolean {
    return this.#layout.used(sequence) < this.limit;
  }

  /**
   * Appends a token to each sequence and runs the model on them.
   * @param ids one for each sequence; any for those in `held`
   * @param held sequences that are finished: they do not become longer, and their scores mean nothing
   * @returns the scores of what comes next, until the next step
   */
  async step(
    ids: ArrayLike<number>,
    { held = [], signal }: { held?: readonly boolean[]; signal?: AbortSignal | undefined } = {},
  ): Promise<Scores> {
    if (this.#disposed) throw usageError('decoding', 'it was disposed, expected a live one');
    if (ids.length !== this.batch)
      throw inputError('ids', `has ${ids.length} tokens, expected ${this.batch}, one for each sequence`);
    const { model } = this.#text;
    checkIds(Array.from(ids), model.vocabulary, 'ids');
    for (let b = 0; b < this.batch; b++)
      if (!held[b] && !this.hasRoom(b)) throw roomError(`sequence ${b}`, this.#layout.used(b) + 1, this.#limits());
    const columns = this.#buffers.captured && this.#buffers.cache.capacity;
    if (model.past.length > 0) return this.#run(this.#layout.next(ids, held, columns), signal);
    this.#texts.forEach((text, b) => held[b] || text.push(ids[b]!));
    return this.#run(this.#layout.prompt(this.#texts), signal);
  }

  /** Gives the cache's memory back. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    free([this.#logits]);
    this.#text.giveBack(this.#buffers);
  }

  async #run(step: Step, signal: AbortSignal | undefined): Promise<Scores> {
    const { session, model, findTop } = this.#text;
    // The scores of a whole prompt may be larger than the cache.
    if (this.#logits !== this.#stepLogits) free([this.#logits]);
    const inputs = stepInputs(model, step, this.#scratch);
    const options: StepOptions = {
      ...(signal ? { signal } : {}),
      ...(onDevice(session) ? { outputLocation: 'gpu-buffer' } : {}),
    };
    const { captured, cache } = this.#buffers;
    const logits =
      captured && step.start > 0
        ? await captured.run(inputs, cache, options)
        : await this.#runPlain(inputs, step, options);
    return new Scores(session, logits, this.batch, (tokens) => this.#layout.lastRows(tokens), findTop);
  }

  /** A run without a captured graph. Steps of one token write their scores into one tensor. */
  async #runPlain(inputs: Feeds, { tokens }: Step, options: StepOptions): Promise<Tensor> {
    const { session, model } = this.#text;
    const { captured, cache } = this.#buffers;
    const reused = tokens === 1 ? this.#stepLogits : undefined;
    Object.assign(cache.feeds, inputs);
    cache.fetches[model.logits] = reused ?? null;
    const runOptions = captured ? { ...options, extra: withoutGraph } : options;
    const outputs = await session.run(cache.feeds, cache.fetches, runOptions);
    cache.accept(outputs);
    const logits = outputs[model.logits] as Tensor;
    if (logits !== reused) {
      free([this.#logits]);
      this.#logits = logits;
      this.#stepLogits = tokens === 1 ? logits : undefined;
    }
    await captured?.prepare(logits, this.batch);
    return logits;
  }

  #checkRoom(prompts: readonly (readonly number[])[]): void {
    const used = this.#text.model.padding === 'left' ? Math.max(...prompts.map(({ length }) => length)) : 0;
    prompts.forEach(({ length }, i) => {
      const needed = Math.max(length, used);
      if (needed > this.limit) throw roomError(`prompts[${i}]`, needed, this.#limits());
    });
  }

  #limits(): { capacity: number | undefined; positions: number | undefined } {
    return { capacity: this.#buffers.cache.capacity, positions: this.#text.model.positions };
  }
}

/** @throws input error for a text that no run of the model can begin with */
export function checkPrompt(model: TextModel, prompt: readonly number[], at: string): void {
  if (prompt.length === 0) throw inputError(at, 'has no tokens, expected at least one');
  checkIds(prompt, model.vocabulary, at);
  const { positions } = model;
  if (positions !== undefined && prompt.length > positions)
    throw roomError(at, prompt.length, { positions, capacity: undefined });
}

function checkPrompts(model: TextModel, prompts: readonly (readonly number[])[]): void {
  if (prompts.length === 0) throw inputError('prompts', 'has no texts, expected at least one');
  const fixed = model.ids.shape[0];
  if (typeof fixed === 'number' && fixed >= 0 && fixed !== prompts.length)
    throw inputError('prompts', `has ${prompts.length} texts, expected ${fixed}, the batch size of the model`);
  prompts.forEach((prompt, i) => {
    checkPrompt(model, prompt, `prompts[${i}]`);
    const first = prompts[0]!.length;
    if (model.padding === undefined && prompt.length !== first)
      throw inputError(
        `prompts[${i}]`,
        `has ${prompt.length} tokens, expected ${first} as in prompts[0]: how to pad this model is not known`,
        'Give facts: textFacts(loadModel(path)), from ort-lowbit/rewriter, or run it alone.',
      );
  });
}

function roomError(
  at: string,
  needed: number,
  { capacity = Infinity, positions = Infinity }: { capacity: number | undefined; positions: number | undefined },
) {
  const byTable = positions <= capacity;
  const what = byTable ? "the rows of the model's position table" : 'the capacity of the cache';
  return inputError(
    at,
    `has ${needed} tokens, expected at most ${byTable ? positions : capacity}, ${what}`,
    byTable ? 'Shorten the text.' : 'Give a larger capacity.',
  );
}
