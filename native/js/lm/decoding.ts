import type { Tensor } from 'onnxruntime-common';
import { inputError, usageError, type LowbitError } from '../../../ops/common/errors.js';
import { Scratch, stepInputs, type Step } from './feeds.js';
import { checkIds } from './ids.js';
import { Layout } from './layout.js';
import { withoutGraph } from './captured-steps.js';
import { fillsOutputs, free, onDevice } from './memory.js';
import { checkPrompts, cutPrompts, roomError, takesPieces } from './prompts.js';
import { Scores } from './scores.js';
import type { StepOptions } from './session.js';
import type { Buffers, TextSession } from './text-session.js';

export interface DecodingOptions {
  /**
   * Tokens of all prompts together that one run takes, as far as the model lets prompts come in pieces: what a run needs of memory, scores of
   * every token among it, goes with it. Default 2048.
   */
  readonly tokensPerRun?: number;
  /** Most tokens of a sequence, where the cache is a buffer of fixed size; rounded up to a multiple of 16. */
  readonly capacity?: number;
  readonly signal?: AbortSignal | undefined;
}

/** A batch of texts that a model continues: the cache, the lengths, and what each run is fed. */
export class Decoding {
  readonly #text: TextSession;
  readonly #layout: Layout;
  readonly #buffers: Buffers;
  readonly #scratch = new Scratch();
  #logits: Tensor | undefined;
  /** The same, if it has the shape that the next step's will have. */
  #stepLogits: Tensor | undefined;
  /** Whole texts so far, for a model without a cache. */
  #texts: number[][];
  #disposed = false;

  private constructor(text: TextSession, prompts: readonly (readonly number[])[], buffers: Buffers) {
    this.#text = text;
    this.#buffers = buffers;
    this.#texts = prompts.map((prompt) => [...prompt]);
    this.#layout = new Layout(text.model.padding ?? 'right', prompts.length);
  }

  /**
   * Runs the prompts, in pieces if they are long.
   * @param prompts ids of each sequence; of one length if the model cannot pad
   * @returns the batch, and the scores of what comes after each prompt, until the next step
   * @throws input error for prompts that the model, its position table or the capacity have no room for
   */
  static async start(
    text: TextSession,
    prompts: readonly (readonly number[])[],
    { capacity, signal, tokensPerRun }: DecodingOptions = {},
  ): Promise<{ decoding: Decoding; scores: Scores }> {
    checkPrompts(text.model, prompts);
    if (capacity !== undefined && !(Number.isInteger(capacity) && capacity > 0))
      throw usageError('capacity', `is ${capacity}, expected at least 1`);
    const longest = Math.max(...prompts.map(({ length }) => length));
    const decoding = new Decoding(text, prompts, await text.acquire(prompts.length, longest, capacity));
    try {
      decoding.#checkRoom(prompts);
      const [beginnings, ...pieces] = cutPrompts(text.model, prompts, tokensPerRun);
      let step = decoding.#layout.begin(beginnings!);
      for (const piece of pieces) {
        await decoding.#runPlain(step, signal, false);
        step = decoding.#layout.append(piece);
      }
      return { decoding, scores: decoding.#scoresOf(await decoding.#runPlain(step, signal, true)) };
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
    return this.#shortage('', sequence, 1) === undefined;
  }

  /**
   * Appends a token to each sequence and runs the model on them. A step that fails ends the decoding.
   * @param ids one for each sequence; any for those in `held`
   * @param held sequences that are finished: they do not become longer, and their scores mean nothing
   * @returns the scores of what comes next, until the next step
   */
  async step(
    ids: ArrayLike<number>,
    { held = [], signal }: { held?: readonly boolean[]; signal?: AbortSignal | undefined } = {},
  ): Promise<Scores> {
    const texts = Array.from(ids, (id) => [id]);
    this.#check(texts, held);
    return this.#advance(texts, held, signal);
  }

  /**
   * Appends several tokens to each sequence, such as the next question of a conversation: in one run where the model takes pieces of texts,
   * else one by one.
   * @param texts for each sequence equally many ids
   * @returns the scores of what comes after them, until the next step
   */
  async append(
    texts: readonly (readonly number[])[],
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<Scores> {
    this.#check(texts, []);
    const { model } = this.#text;
    if (model.past.length === 0 || takesPieces(model, this.batch)) return this.#advance(texts, [], signal);
    const last = texts[0]!.length - 1;
    for (let i = 0; i < last; i++)
      await this.step(
        Array.from(texts, (text) => text[i]!),
        { signal },
      );
    return this.step(
      Array.from(texts, (text) => text[last]!),
      { signal },
    );
  }

  /**
   * Lets the other sequences leave the batch; those that stay are numbered anew. Scores of the step before cannot be read any more.
   * @param sequences at least one, ascending
   * @returns false, and does nothing, where that would mean copying: on a device; or where the model has a fixed batch size
   */
  keep(sequences: readonly number[]): boolean {
    const { model } = this.#text;
    if (typeof model.ids.shape[0] === 'number' || !this.#buffers.cache.keep(sequences)) return false;
    this.#layout.keep(sequences);
    this.#texts = sequences.map((row) => this.#texts[row]!);
    this.#stepLogits = undefined;
    return true;
  }

  /** Gives the cache's memory back. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    free([this.#logits]);
    this.#text.giveBack(this.#buffers);
  }

  #check(texts: readonly (readonly number[])[], held: readonly boolean[]): void {
    if (this.#disposed) throw usageError('decoding', 'it was disposed, expected a live one');
    if (texts.length !== this.batch)
      throw inputError('ids', `has ${texts.length} tokens, expected ${this.batch}, one for each sequence`);
    const count = texts[0]!.length;
    texts.forEach((ids, b) => {
      checkIds(ids, this.#text.model.vocabulary, 'ids');
      if (ids.length !== count || count === 0)
        throw inputError(`ids[${b}]`, `has ${ids.length} tokens, expected at least one and as many as ids[0]`);
      const problem = held[b] ? undefined : this.#shortage(`sequence ${b}`, b, count);
      if (problem) throw problem;
    });
  }

  /** Runs the model on new tokens, equally many for each sequence. */
  async #advance(
    texts: readonly (readonly number[])[],
    held: readonly boolean[],
    signal: AbortSignal | undefined,
  ): Promise<Scores> {
    const { model } = this.#text;
    const { captured, cache } = this.#buffers;
    // The scores of a whole prompt may be larger than the cache.
    if (this.#logits !== this.#stepLogits) free([this.#logits]);
    try {
      if (model.past.length === 0) {
        this.#texts.forEach((text, b) => held[b] || text.push(...texts[b]!));
        return this.#scoresOf(await this.#runPlain(this.#layout.begin(this.#texts), signal, true));
      }
      const replayed = texts[0]!.length === 1 ? captured : undefined;
      const step = this.#layout.append(texts, held, replayed && cache.capacity);
      if (!replayed) return this.#scoresOf(await this.#runPlain(step, signal, true));
      return this.#scoresOf(await replayed.run(stepInputs(model, step, this.#scratch), cache, this.#options(signal)));
    } catch (error) {
      this.dispose(); // what the cache holds is not known any more
      throw error;
    }
  }

  #scoresOf(logits: Tensor): Scores {
    const { session, findTop } = this.#text;
    return new Scores(session, logits, this.batch, (tokens) => this.#layout.lastRows(tokens), findTop);
  }

  #options(signal: AbortSignal | undefined): StepOptions {
    return {
      ...(signal ? { signal } : {}),
      ...(onDevice(this.#text.session) ? { outputLocation: 'gpu-buffer' } : {}),
    };
  }

  /**
   * A run without a captured graph. Steps of one token write their scores into one tensor.
   * @param scored whether its scores are wanted
   */
  async #runPlain(step: Step, signal: AbortSignal | undefined, scored: boolean): Promise<Tensor> {
    const { session, model } = this.#text;
    const { captured, cache } = this.#buffers;
    Object.assign(cache.feeds, stepInputs(model, step, this.#scratch));
    const reused = step.tokens === 1 && fillsOutputs(session) ? this.#stepLogits : undefined;
    const fetches = scored ? { ...cache.fetches, [model.logits]: reused ?? null } : cache.fetches;
    const options = this.#options(signal);
    const runOptions = captured ? { ...options, extra: withoutGraph } : options;
    const outputs = await session.run(cache.feeds, fetches, runOptions);
    cache.accept(outputs);
    const logits = outputs[model.logits] as Tensor;
    if (!scored) return logits;
    if (logits !== reused) {
      free([this.#logits]);
      this.#logits = logits;
      this.#stepLogits = step.tokens === 1 ? logits : undefined;
    }
    await captured?.prepare(logits, this.batch);
    return logits;
  }

  #checkRoom(prompts: readonly (readonly number[])[]): void {
    const padded = this.#text.model.padding === 'left' ? Math.max(...prompts.map(({ length }) => length)) : 0;
    prompts.forEach(({ length }, i) => {
      const problem = this.#roomError(`prompts[${i}]`, length, Math.max(length, padded));
      if (problem) throw problem;
    });
  }

  /** What is said if `more` tokens of a sequence do not fit. */
  #shortage(at: string, sequence: number, more: number): LowbitError | undefined {
    return this.#roomError(at, this.#layout.lengths[sequence]! + more, this.#layout.used(sequence) + more);
  }

  #roomError(at: string, tokens: number, columns: number): LowbitError | undefined {
    const { positions, positionsOf } = this.#text.model;
    const taken = { positions: positionsOf === 'texts' ? tokens : columns, columns };
    return roomError(at, taken, { positions, capacity: this.#buffers.cache.capacity });
  }
}
