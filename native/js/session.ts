/**
 * InferenceSession with onnxruntime-node's shape. Runs execute on native threads; the event loop stays free.
 */
import type { InferenceSession as OrtSession, Tensor } from 'onnxruntime-common';
import { inputError, LowbitError } from '../../ops/common/errors.js';
import type { NativeSession, NativeValue } from './addon.js';
import { optionError, show } from './check-option.js';
import { explainCuda } from './info.js';
import { allocateOnDevice, copyFromDevice, copyToDevice } from './device.js';
import { loadNative, textOf } from './load.js';
import type { RunOptions as HostRunOptions, SessionOptions as HostSessionOptions } from './session-options.js';
import {
  readRunOptions,
  readSessionOptions,
  type ReadOptions,
  type RunOptions,
  type SessionOptions,
} from './session-options.js';
import type { TensorType } from './types.js';
import { describeType, fromNative, toMetadata, toNative } from './values.js';

type Fetches = OrtSession.NullableOnnxValueMapType;

export class InferenceSession implements OrtSession {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly inputMetadata: readonly OrtSession.ValueMetadata[];
  readonly outputMetadata: readonly OrtSession.ValueMetadata[];

  /** Custom metadata of the model. */
  readonly modelMetadata: ReadonlyMap<string, string>;
  /** Where the model runs. */
  readonly device: 'cpu' | 'cuda';
  /** CUDA's number of the device; 0 on the CPU. */
  readonly deviceId: number;
  /** Whether runs replay a captured CUDA graph; see `enableCudaGraph`. */
  readonly cudaGraph: boolean;

  readonly #native: NativeSession;
  /** By name: runs look up hundreds of caches. */
  readonly #inputs: ReadonlyMap<string, OrtSession.ValueMetadata>;
  readonly #outputs: ReadonlyMap<string, OrtSession.ValueMetadata>;
  readonly #locationOf: ReadOptions['locationOf'];
  readonly #profiling: boolean;
  readonly #running = new Set<Promise<unknown>>();
  #released: Promise<void> | undefined;
  #nextRun = 1;

  private constructor(native: NativeSession, options: ReadOptions) {
    const { inputs, outputs, metadata } = loadNative().addon.describeSession(native);
    this.#native = native;
    this.#locationOf = options.locationOf;
    this.#profiling = options.native.profileFilePrefix !== undefined;
    this.modelMetadata = new Map(metadata);
    this.device = options.native.cuda === undefined ? 'cpu' : 'cuda';
    this.deviceId = options.native.deviceId ?? 0;
    this.cudaGraph = options.native.cuda?.some(([key, value]) => key === 'enable_cuda_graph' && value === '1') ?? false;
    this.inputMetadata = inputs.map(toMetadata);
    this.outputMetadata = outputs.map(toMetadata);
    this.inputNames = inputs.map(({ name }) => name);
    this.outputNames = outputs.map(({ name }) => name);
    this.#inputs = new Map(this.inputMetadata.map((metadata) => [metadata.name, metadata]));
    this.#outputs = new Map(this.outputMetadata.map((metadata) => [metadata.name, metadata]));
    for (const name of options.locatedNames) {
      if (!this.#outputs.has(name)) {
        throw new TypeError(
          `options.preferredOutputLocation.${name}: is no output, expected one of ${list(this.outputNames)}.`,
        );
      }
    }
  }

  /**
   * Loads a model, off the event loop. Our operators are known to it.
   * @param model a path, or the file's bytes (a Uint8Array, or a buffer with an optional offset and length in bytes)
   * @throws TypeError for a wrong option, LowbitError 'input' for a model that does not load
   */
  static create(model: string | Uint8Array | ArrayBufferLike, options?: SessionOptions): Promise<InferenceSession>;
  static create(
    buffer: ArrayBufferLike,
    byteOffset: number,
    byteLength?: number,
    options?: SessionOptions,
  ): Promise<InferenceSession>;
  static async create(
    model: string | Uint8Array | ArrayBufferLike,
    offsetOrOptions?: number | SessionOptions,
    lengthOrOptions?: number | SessionOptions,
    lastOptions?: SessionOptions,
  ): Promise<InferenceSession> {
    const [source, options] = readSource(model, offsetOrOptions, lengthOrOptions, lastOptions);
    const read = await readSessionOptions(options, typeof source === 'string');
    const { addon } = loadNative();
    try {
      return new InferenceSession(await addon.createSession(source, read.native), read);
    } catch (cause) {
      if (cause instanceof TypeError) throw cause;
      const message = textOf(cause);
      const reasons = read.native.cuda ? explainCuda(message, read.native.deviceId ?? 0) : [];
      if (reasons.length > 0) throw inputError('cuda', reasons.join(' ').replace(/\.$/, ''), '', cause);
      const where = typeof source === 'string' ? source : `model of ${source.byteLength} bytes`;
      throw inputError(where, `cannot be loaded (${message.trim().replace(/\.$/, '')})`, '', cause);
    }
  }

  /**
   * Runs the model.
   * @param feeds a tensor for every input; its memory is read in place, so it must not change until the promise settles
   * @param fetches names of the outputs wanted, or an object whose tensors are filled in place (null: allocate)
   * @returns a tensor per output; large ones own ONNX Runtime's memory, without a copy
   */
  run(feeds: OrtSession.FeedsType, options?: RunOptions): Promise<OrtSession.ReturnType>;
  run(
    feeds: OrtSession.FeedsType,
    fetches: OrtSession.FetchesType,
    options?: RunOptions,
  ): Promise<OrtSession.ReturnType>;
  async run(
    feeds: OrtSession.FeedsType,
    fetchesOrOptions?: OrtSession.FetchesType | RunOptions,
    lastOptions?: RunOptions,
  ): Promise<OrtSession.ReturnType> {
    this.#checkOpen();
    const [fetches, options] = this.#readFetches(fetchesOrOptions, lastOptions);
    const inputs = this.#readFeeds(feeds);
    const { native: runOptions, signal, location } = readRunOptions(options, this.device === 'cuda');
    signal?.throwIfAborted();
    const names = Object.keys(fetches);
    const outputs = names.map((name) => this.#readFetch(name, fetches[name] ?? null, location));
    if (this.cudaGraph) checkGraphRun(feeds, fetches, runOptions.config);
    const id = this.#nextRun++;
    const { addon } = loadNative();
    const abort = () => addon.terminate(this.#native, id);
    const running = addon.run(this.#native, id, this.inputNames, inputs, names, outputs, runOptions);
    this.#running.add(running);
    signal?.addEventListener('abort', abort);
    try {
      const results = await running;
      const entries = results.map((value, i) => {
        const name = names[i] as string;
        return [name, value ? fromNative(name, value) : (fetches[name] as Tensor)] as const;
      });
      return Object.fromEntries(entries);
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof LowbitError) throw error;
      const message = textOf(error).trim().replace(/\.$/, '');
      // Code for another architecture and a full memory show in runs only.
      const causes = this.device === 'cuda' ? explainCuda(message, this.deviceId) : [];
      throw inputError('run', message, causes.join(' '), error);
    } finally {
      signal?.removeEventListener('abort', abort);
      this.#running.delete(running);
    }
  }

  /** Waits for the runs in flight, then frees the model. New runs are refused from now on. Idempotent. */
  release(): Promise<void> {
    this.#released ??= Promise.allSettled(this.#running).then(() => loadNative().addon.release(this.#native));
    return this.#released;
  }

  /** Profiling starts with the session when options.enableProfiling is set; this is here for the interface. */
  startProfiling(): void {
    this.#checkOpen();
  }

  /**
   * Ends profiling and writes the profile.
   * @returns its file name
   */
  endProfiling(): string {
    this.#checkOpen();
    if (!this.#profiling) {
      throw new TypeError('options.enableProfiling: is false, expected true to have a profile. Set it at create().');
    }
    return loadNative().addon.endProfiling(this.#native);
  }

  /**
   * A tensor in the memory of this session's CUDA device, to feed or to let runs fill it.
   * @param source a CPU tensor to copy, or only a type and dims: then it is all zeros
   * @param into a device tensor of the same type and dims to overwrite instead of making one; a captured CUDA graph reads
   *   and writes fixed addresses, so its inputs are changed this way
   */
  async toDevice(
    source: Tensor | { readonly type: TensorType; readonly dims: readonly number[] },
    into?: Tensor,
  ): Promise<Tensor> {
    this.#checkOpen();
    if (this.device !== 'cuda') {
      throw inputError('session', "it runs on the CPU, expected 'cuda' in options.executionProviders at create()");
    }
    const target = into ?? (await allocateOnDevice(this.#native, source.type, source.dims));
    if ('location' in source) await copyToDevice(source, target);
    return target;
  }

  /**
   * Copies a device tensor, or a range of its elements, to the host.
   * @param offset elements before the first one wanted
   * @returns a flat tensor of `count` elements; the source's shape when all are wanted
   * @throws LowbitError 'input' for elements outside the tensor
   */
  async fromDevice(source: Tensor, offset = 0, count = source.size - offset): Promise<Tensor> {
    this.#checkOpen();
    const flat = await copyFromDevice(source, offset, count);
    return offset === 0 && count === source.size ? flat.reshape(source.dims) : flat;
  }

  #checkOpen(): void {
    if (this.#released) throw inputError('session', 'it was released, expected an open session', 'Create a new one.');
  }

  #readFeeds(feeds: unknown): NativeValue[] {
    if (typeof feeds !== 'object' || feeds === null || Array.isArray(feeds)) {
      throw new TypeError(`feeds: is ${show(feeds)}, expected an object of tensors by input name.`);
    }
    const given = feeds as Record<string, unknown>;
    const unknown = Object.keys(given).filter((name) => !this.#inputs.has(name));
    const missing = this.inputMetadata.filter(({ name }) => given[name] === undefined);
    if (unknown.length > 0) throw inputError('feeds', `unknown ${list(unknown)}, expected ${list(this.inputNames)}`);
    if (missing.length > 0) {
      const lines = missing.map((metadata) => `"${metadata.name}" ${describeType(metadata)}`).join(', ');
      throw inputError('feeds', `missing ${lines}, expected a tensor for every input`);
    }
    return this.inputMetadata.map((metadata) => toNative('input', given[metadata.name], metadata));
  }

  #readFetches(first: unknown, second: unknown): [Fetches, unknown] {
    const all = () => Object.fromEntries(this.outputNames.map((name) => [name, null]));
    if (first === undefined) return [all(), second ?? {}];
    if (Array.isArray(first)) {
      if (first.length === 0) throw new TypeError('fetches: is an empty array, expected at least one output name.');
      this.#checkOutputNames(first);
      return [Object.fromEntries((first as string[]).map((name) => [name, null])), second ?? {}];
    }
    if (typeof first !== 'object' || first === null || 'dims' in first) {
      throw optionError('fetches', first, 'output names, an object by output name, or run options');
    }
    const given = first as Record<string, unknown>;
    const keys = Object.keys(given);
    // As in onnxruntime-common: an object that names an output is fetches, any other is run options.
    const isFetches = second !== undefined || keys.some((key) => this.#outputs.has(key));
    if (!isFetches) return [all(), given];
    this.#checkOutputNames(keys);
    return [given as Fetches, second ?? {}];
  }

  #checkOutputNames(names: readonly unknown[]): void {
    const unknown = names.filter((name) => !this.#outputs.has(name as string));
    if (unknown.length > 0) {
      throw inputError('fetches', `unknown ${unknown.map(show).join(', ')}, expected ${list(this.outputNames)}`);
    }
  }

  #readFetch(name: string, value: Tensor | null, location?: Tensor.DataLocation): NativeValue | null | true {
    if (value === null) return (location ?? this.#locationOf(name)) === 'gpu-buffer' ? true : null;
    if (value.type === 'string')
      throw inputError(`output "${name}"`, 'strings cannot be filled in place, expected null');
    return toNative('output', value, this.#outputs.get(name)!);
  }
}

/** Types under the class's name, where users of onnxruntime-node look for them. */
// eslint-disable-next-line @typescript-eslint/no-namespace -- declaration merging knows no other way
export declare namespace InferenceSession {
  type SessionOptions = HostSessionOptions;
  type RunOptions = HostRunOptions;
  type FeedsType = OrtSession.FeedsType;
  type FetchesType = OrtSession.FetchesType;
  type ReturnType = OrtSession.ReturnType;
  type OnnxValueMapType = OrtSession.OnnxValueMapType;
  type ValueMetadata = OrtSession.ValueMetadata;
  type TensorValueMetadata = OrtSession.TensorValueMetadata;
}

// `await using session = …` where the runtime has it.
const asyncDispose: symbol | undefined = (Symbol as { asyncDispose?: symbol }).asyncDispose;
if (asyncDispose) {
  Object.defineProperty(InferenceSession.prototype, asyncDispose, {
    value(this: InferenceSession) {
      return this.release();
    },
    configurable: true,
    writable: true,
  });
}

function readSource(
  model: unknown,
  first: unknown,
  second: unknown,
  third: unknown,
): [source: string | Uint8Array, options: unknown] {
  const orEmpty = (options: unknown) => (options === undefined ? {} : options);
  if (typeof model === 'string' || model instanceof Uint8Array) return [model, orEmpty(first)];
  if (!(model instanceof ArrayBuffer) && !(model instanceof SharedArrayBuffer)) {
    throw new TypeError(`model: is ${show(model)}, expected a path, a Uint8Array or an ArrayBuffer.`);
  }
  if (typeof first !== 'number') return [new Uint8Array(model), orEmpty(first)];
  const length = typeof second === 'number' ? second : model.byteLength - first;
  if (
    !(Number.isSafeInteger(first) && Number.isSafeInteger(length) && first >= 0 && length > 0) ||
    first + length > model.byteLength
  ) {
    throw new RangeError(
      `model: bytes ${first} … ${first + length}, expected a range within ${model.byteLength} bytes.`,
    );
  }
  return [new Uint8Array(model, first, length), orEmpty(typeof second === 'number' ? third : second)];
}

/**
 * A captured CUDA graph replays on the addresses it was captured with. A tensor anywhere else would be passed over in
 * silence, so it is refused here.
 */
export function checkGraphRun(
  feeds: OrtSession.FeedsType,
  fetches: Fetches,
  config: readonly (readonly [string, string])[],
): void {
  if (config.some(([key, value]) => key === 'gpu_graph_id' && value === '-1')) return; // an ordinary run
  const elsewhere = [
    ...Object.keys(feeds).filter((name) => feeds[name]?.location !== 'gpu-buffer'),
    ...Object.keys(fetches).filter((name) => fetches[name]?.location !== 'gpu-buffer'),
  ];
  if (elsewhere.length > 0) {
    throw inputError(
      'run',
      `${list(elsewhere)} not on the device, expected device tensors for every input and output: the session has a CUDA graph`,
      "Use session.toDevice(), or runOptions.extra = { gpu_graph_id: '-1' } for a run without the graph.",
    );
  }
}

function list(names: readonly string[]): string {
  return names.length === 0 ? 'none' : names.map((name) => `"${name}"`).join(', ');
}
