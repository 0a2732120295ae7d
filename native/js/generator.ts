/**
 * Text generation with a model: its session, what its graph tells, and the loop.
 */
import { usageError } from '../../ops/common/errors.js';
import { checkBoolean, checkNames, checkObject, checkOneOf, optionError } from './check-option.js';
import { Decoding, type DecodingOptions } from './lm/decoding.js';
import type { TextFacts } from './lm/facts.js';
import { generate, type GenerateOptions, type Generation } from './lm/generate.js';
import { onDevice } from './lm/memory.js';
import type { Scores } from './lm/scores.js';
import type { DeviceSession, ModelSession } from './lm/session.js';
import { describeTextModel, type TextModel } from './lm/text-model.js';
import { TextSession } from './lm/text-session.js';
import { TopOnDevice } from './top-on-device.js';
import { InferenceSession } from './session.js';
import type { SessionOptions } from './session-options.js';

export interface GeneratorOptions {
  /** Where the model runs, if a session is to be made. Default 'cpu'. */
  readonly device?: 'cpu' | 'cuda';
  /** Capture the steps into a CUDA graph; only with a cache in place. Default false. */
  readonly cudaGraph?: boolean;
  /** Further options of the session that is made. */
  readonly session?: SessionOptions;
  /** What the graph tells; default: what the rewriter wrote into the model. See `textFacts` of `ort-lowbit/rewriter`. */
  readonly facts?: TextFacts;
}

/** All names of the options of a type. */
const createNames = Object.keys({ device: 0, cudaGraph: 0, session: 0, facts: 0 } satisfies Names<GeneratorOptions>);
const startNames = Object.keys({ tokensPerRun: 0, capacity: 0, signal: 0 } satisfies Names<DecodingOptions>);
const generateNames = Object.keys({
  ...{ prompts: 0, maxNewTokens: 0, stopIds: 0, stopSequences: 0, onToken: 0, signal: 0, capacity: 0, tokensPerRun: 0 },
  ...{ temperature: 0, topK: 0, topP: 0, repetitionPenalty: 0, seed: 0 },
} satisfies Names<GenerateOptions>);
type Names<Options> = Record<keyof Options, 0>;

/** A language model that continues texts, on the CPU or on a device, with its key and value cache left where the model runs. */
export class Generator {
  readonly #text: TextSession;
  readonly #owned: boolean;
  readonly #top: TopOnDevice | undefined;

  private constructor(session: ModelSession, owned: boolean, facts: TextFacts | undefined) {
    this.#owned = owned;
    const model = describeTextModel(session, facts);
    const device = onDevice(session);
    this.#top = device && new TopOnDevice({ executionProviders: [{ name: 'cuda', deviceId: device.deviceId }] });
    this.#text = new TextSession(session, model, this.#top?.find);
    if ((session as Partial<DeviceSession>).cudaGraph && model.cache === 'growing')
      throw usageError(
        'cudaGraph',
        'the cache of this model grows, expected one in place, whose shapes stay',
        'Rewrite the model with --set kv.form=in_place, or leave cudaGraph out.',
      );
  }

  get session(): ModelSession {
    return this.#text.session;
  }

  /** What the model's inputs and outputs are. */
  get model(): TextModel {
    return this.#text.model;
  }

  /**
   * @param model path or bytes of a model, or a session, which then stays the caller's to release
   * @throws TypeError for wrong options, usage error for those that a given session cannot take, input error for a model that is no language model
   */
  static async create(model: string | Uint8Array | ModelSession, options: GeneratorOptions = {}): Promise<Generator> {
    checkNames(checkObject(options, 'options'), 'options', createNames);
    const { device, cudaGraph, session: sessionOptions, facts } = options;
    // A word that is none must not mean the CPU.
    if (device !== undefined) checkOneOf(device, 'options.device', ['cpu', 'cuda']);
    if (cudaGraph !== undefined) checkBoolean(cudaGraph, 'options.cudaGraph');
    const given = typeof model === 'string' || model instanceof Uint8Array ? undefined : model;
    if (given && (device !== undefined || cudaGraph !== undefined || sessionOptions !== undefined))
      throw usageError(
        'options',
        'device, cudaGraph and session are for a model that is opened here, expected none with a session',
      );
    if (cudaGraph && device !== 'cuda')
      throw usageError('cudaGraph', `is true on ${device ?? 'cpu'}, expected device 'cuda'`);
    const cuda = { name: 'cuda' as const, enableCudaGraph: cudaGraph ?? false };
    const opening = { ...(device === 'cuda' ? { executionProviders: [cuda] } : {}), ...sessionOptions };
    const session = given ?? (await InferenceSession.create(model as string | Uint8Array, opening));
    try {
      return new Generator(session, !given, facts);
    } catch (error) {
      if (!given) await session.release();
      throw error;
    }
  }

  /**
   * Continues prompts; greedy unless options.temperature says otherwise.
   * @throws TypeError for names that are no options, usage error for options without a meaning, input error for prompts that do not fit the model
   */
  async generate(options: GenerateOptions): Promise<Generation> {
    checkNames(checkObject(options, 'options'), 'options', generateNames);
    if (!Array.isArray(options.prompts)) throw optionError('options.prompts', options.prompts, 'arrays of token ids');
    return generate(this.#text, options);
  }

  /**
   * Runs prompts and leaves the choice of tokens, and the loop, to the caller: `step` of what it returns continues. For prompts of
   * different lengths the model must be able to pad (`model.padding`).
   */
  async start(
    prompts: readonly (readonly number[])[],
    options: DecodingOptions = {},
  ): Promise<{ decoding: Decoding; scores: Scores }> {
    checkNames(checkObject(options, 'options'), 'options', startNames);
    return Decoding.start(this.#text, prompts, options);
  }

  /** Gives idle buffers back, and releases the session if it was made here. */
  async release(): Promise<void> {
    this.#text.dispose();
    await this.#top?.release();
    if (this.#owned) await this.session.release();
  }
}
