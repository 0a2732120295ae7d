/**
 * Sessions for measurements on a GPU: tensors stay on the device, kernels are replayed as CUDA graphs where that works, and memory is
 * what the driver says. Everything runs on the CPU provider too, so that a program can be tried where there is no GPU.
 */
import { spawnSync } from 'node:child_process';
import { opModel } from '../../models/op-model.js';
import { InferenceSession, Tensor, type SessionOptions } from '../../native/js/index.js';

export type Provider = 'cuda' | 'cpu';

export interface DeviceOptions {
  readonly provider: Provider;
  /** Replay kernels as a CUDA graph: every run must then have the same device tensors. Default false. */
  readonly graph?: boolean;
  /** Bytes that the session may take on the device. */
  readonly memoryLimit?: number;
  readonly options?: SessionOptions;
}

/** Memory is taken as it is needed, not in powers of two: what is measured is what is used. */
const exactArena = { arena_extend_strategy: 'kSameAsRequested' };

/** A session whose outputs stay on its device. */
export function openOnDevice(
  model: string | Uint8Array,
  { provider, graph = false, memoryLimit, options = {} }: DeviceOptions,
): Promise<InferenceSession> {
  const cuda = {
    name: 'cuda' as const,
    enableCudaGraph: graph,
    ...(memoryLimit === undefined ? {} : { gpuMemLimit: memoryLimit }),
    extra: exactArena,
  };
  const quiet = { logSeverityLevel: 3 as const, ...options }; // ONNX Runtime warns of shapes that it computes on the CPU
  const all: SessionOptions =
    provider === 'cpu' ? quiet : { executionProviders: [cuda], preferredOutputLocation: 'gpu-buffer', ...quiet };
  return typeof model === 'string' ? InferenceSession.create(model, all) : InferenceSession.create(model, all);
}

/** Puts tensors where the session runs; a type and dims alone give memory with anything in it. */
export class Placer {
  readonly #session: InferenceSession;
  readonly #provider: Provider;

  constructor(session: InferenceSession, provider: Provider) {
    this.#session = session;
    this.#provider = provider;
  }

  async place(tensor: Tensor): Promise<Tensor> {
    return this.#provider === 'cuda' && tensor.size > 0 ? this.#session.toDevice(tensor) : tensor;
  }

  async allocate(type: Tensor.Type, dims: readonly number[]): Promise<Tensor> {
    const count = dims.reduce((product, dim) => product * dim, 1);
    if (this.#provider === 'cuda' && count > 0) return this.#session.toDevice({ type, dims });
    return new Tensor(type, emptyData(type, count) as never, [...dims]);
  }
}

function emptyData(type: Tensor.Type, count: number): ArrayBufferView {
  if (type === 'float32') return new Float32Array(count);
  if (type === 'float16') return new Uint16Array(count);
  if (type === 'int64') return new BigInt64Array(count);
  if (type === 'int32') return new Int32Array(count);
  if (type === 'int8') return new Int8Array(count);
  return new Uint8Array(count);
}

export const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

/** Milliseconds of each of `count` runs, after `warmups`. */
export async function timeEach(run: () => Promise<unknown>, count: number, warmups = 1): Promise<number[]> {
  for (let i = 0; i < warmups; i++) await run();
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const begin = performance.now();
    await run();
    times.push(performance.now() - begin);
  }
  return times;
}

/**
 * MiB in use on the GPU; 0 where there is none. A session's arena keeps what it took until it is told to shrink, so that after a run this
 * is the most that the session ever used.
 */
export function memoryInUse(provider: Provider): number {
  if (provider === 'cpu') return 0;
  const query = ['--query-gpu=memory.used', '--format=csv,noheader,nounits'];
  const { stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8' });
  return Number((stdout ?? '').trim().split('\n')[0]) || 0;
}

/** Microseconds of a run that does next to nothing, an addition of a few numbers: what every run costs besides its kernels. */
export async function emptyRun(provider: Provider): Promise<number> {
  const port = (name: string) => ({ name, dtype: 'float16' as const, dims: ['M', 8] });
  const model = opModel({
    op: 'Add',
    domain: '',
    inputs: [port('a'), port('b')],
    outputs: [port('y')],
    attributes: {},
  });
  const session = await openOnDevice(model, { provider, graph: provider === 'cuda' });
  const placer = new Placer(session, provider);
  const tensor = () => placer.place(new Tensor('float16', new Uint16Array(8) as never, [1, 8]));
  const [feeds, y] = [{ a: await tensor(), b: await tensor() }, await tensor()];
  const times = await timeEach(() => session.run(feeds, { y }), 40, 20);
  await session.release();
  return 1e3 * median(times);
}

/** One line of what happened, with the seconds since the start. */
export function log(text: string): void {
  console.log(`${(performance.now() / 1000).toFixed(1).padStart(6)} s  ${text}`);
}

/** The first line of an error. */
export const reasonOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n')[0]!.slice(0, 400);
