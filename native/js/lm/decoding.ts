import type { Tensor } from 'onnxruntime-common';
import { inputError, usageError } from '../../../ops/common/errors.js';
import { fixedCache, growingCache, type Cache } from './cache.js';
import { stepInputs, type Step } from './feeds.js';
import { checkIds } from './ids.js';
import { Layout } from './layout.js';
import { free, onDevice, readRows } from './memory.js';
import type { Feeds, ModelSession, StepOptions } from './session.js';
import type { TextModel } from './text-model.js';

export interface DecodingOptions {
  /** Most tokens of a sequence, where the cache is a buffer of fixed size; rounded up to a multiple of 16. */
  readonly capacity?: number;
  readonly signal?: AbortSignal | undefined;
}

/** A batch of texts that a model continues: the cache, the lengths, and what each run is fed. */
export class Decoding {
  /** The longest that a sequence can become: by the position table and the cache's capacity. */
  readonly limit: number;
  readonly #session: ModelSession;
  readonly #model: TextModel;
  readonly #layout: Layout;
  readonly #cache: Cache;
  /** Whole texts so far, for a model without a cache. */
  readonly #texts: number[][];
  #disposed = false;

  private constructor(session: ModelSession, model: TextModel, texts: readonly (readonly number[])[], cache: Cache) {
    this.#session = session;
    this.#model = model;
    this.#cache = cache;
    this.#texts = texts.map((text) => [...text]);
    this.#layout = new Layout(model.padding ?? 'right', texts.length);
    this.limit = Math.min(model.positions ?? Infinity, cache.capacity ?? Infinity);
  }

  /**
   * Runs the prompts, all in one run.
   * @param prompts ids of each sequence; of one length if the model cannot pad
   * @returns the batch, and the scores [vocabulary] of what comes after each prompt
   * @throws input error for prompts that the model, its position table or the capacity have no room for
   */
  static async start(
    session: ModelSession,
    model: TextModel,
    prompts: readonly (readonly number[])[],
    { capacity, signal }: DecodingOptions = {},
  ): Promise<{ decoding: Decoding; scores: Float32Array[] }> {
    checkPrompts(model, prompts);
    const cache = await makeCache(session, model, prompts, capacity);
    const decoding = new Decoding(session, model, prompts, cache);
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
   * @returns the scores [vocabulary] of what comes next
   */
  async step(
    ids: ArrayLike<number>,
    { held = [], signal }: { held?: readonly boolean[]; signal?: AbortSignal | undefined } = {},
  ): Promise<Float32Array[]> {
    if (this.#disposed) throw usageError('decoding', 'it was disposed, expected a live one');
    if (ids.length !== this.batch)
      throw inputError('ids', `has ${ids.length} tokens, expected ${this.batch}, one for each sequence`);
    checkIds(Array.from(ids), this.#model.vocabulary, 'ids');
    for (let b = 0; b < this.batch; b++)
      if (!held[b] && !this.hasRoom(b)) throw roomError(`sequence ${b}`, this.#layout.used(b) + 1, this.#limits());
    if (this.#model.past.length > 0) return this.#run(this.#layout.next(ids, held), signal);
    this.#texts.forEach((text, b) => held[b] || text.push(ids[b]!));
    return this.#run(this.#layout.prompt(this.#texts), signal);
  }

  /** Gives the cache's memory back. */
  dispose(): void {
    this.#disposed = true;
    this.#cache.dispose();
  }

  async #run(step: Step, signal: AbortSignal | undefined): Promise<Float32Array[]> {
    const inputs = stepInputs(this.#model, step);
    const feeds: Feeds = { ...inputs, ...this.#cache.feeds() };
    const fetches = { [this.#model.logits]: null, ...this.#cache.fetches() };
    const options: StepOptions = {
      ...(signal ? { signal } : {}),
      ...(onDevice(this.#session) ? { outputLocation: 'gpu-buffer' } : {}),
    };
    const outputs = await this.#session.run(feeds, fetches, options);
    this.#cache.accept(outputs);
    const logits = outputs[this.#model.logits] as Tensor;
    try {
      return await readRows(this.#session, logits, this.batch, (tokens) => this.#layout.lastRows(tokens));
    } finally {
      free([logits]);
    }
  }

  #checkRoom(prompts: readonly (readonly number[])[]): void {
    const used = this.#model.padding === 'left' ? Math.max(...prompts.map(({ length }) => length)) : 0;
    prompts.forEach(({ length }, i) => {
      const needed = Math.max(length, used);
      if (needed > this.limit) throw roomError(`prompts[${i}]`, needed, this.#limits());
    });
  }

  #limits(): { capacity: number | undefined; positions: number | undefined } {
    return { capacity: this.#cache.capacity, positions: this.#model.positions };
  }
}

/** A cache of the form that the graph takes. A buffer of fixed size is made where there can be one. */
async function makeCache(
  session: ModelSession,
  model: TextModel,
  prompts: readonly (readonly number[])[],
  capacity: number | undefined,
): Promise<Cache> {
  const longest = Math.max(...prompts.map(({ length }) => length));
  if (model.cache === 'growing' || (model.cache === 'shareable' && capacity === undefined))
    return growingCache(model, prompts.length);
  const columns = Math.ceil((capacity ?? longest + defaultRoom) / 16) * 16;
  return fixedCache(session, model, prompts.length, Math.min(columns, model.positions ?? columns));
}

/** New tokens that a cache in place has room for when nobody says how many there will be. */
const defaultRoom = 256;

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
