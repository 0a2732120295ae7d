/**
 * A CUDA session as far as a CPU can play one: the model runs on the CPU, its device tensors are native memory behind the same handles, and
 * what a captured CUDA graph asks for is checked in every run.
 */
import assert from 'node:assert/strict';
import type { Tensor } from 'onnxruntime-common';
import type { NativeSession } from '../../native/js/addon.js';
import { allocateOnDevice, copyFromDevice, copyToDevice } from '../../native/js/device.js';
import type { InferenceSession } from '../../native/js/index.js';
import type { DeviceSession, Feeds, StepOptions } from '../../native/js/lm/session.js';
import { loadNative } from '../../native/js/load.js';
import { checkGraphRun } from '../../native/js/session.js';
import { unaryModel } from './tiny-models.js';

type Fetches = readonly string[] | Readonly<Record<string, Tensor | null>>;

export class FakeDevice implements DeviceSession {
  readonly device = 'cuda';
  readonly deviceId = 0;
  readonly cudaGraph: boolean;
  readonly modelMetadata;
  readonly inputNames;
  readonly outputNames;
  readonly inputMetadata;
  readonly outputMetadata;
  /** Elements that came to the host. */
  downloaded = 0;
  /** Runs by graph number; '' without a graph. */
  readonly runs = new Map<string, number>();
  readonly #inner: InferenceSession;
  readonly #memory: NativeSession;
  readonly #made: Tensor[] = [];
  readonly #captured = new Map<string, string>();
  readonly #numbers = new Map<Tensor, number>();

  private constructor(inner: InferenceSession, memory: NativeSession, cudaGraph: boolean) {
    this.#inner = inner;
    this.#memory = memory;
    this.cudaGraph = cudaGraph;
    this.modelMetadata = inner.modelMetadata;
    this.inputNames = inner.inputNames;
    this.outputNames = inner.outputNames;
    this.inputMetadata = inner.inputMetadata;
    this.outputMetadata = inner.outputMetadata;
  }

  static async over(inner: InferenceSession, cudaGraph = false): Promise<FakeDevice> {
    const options = { freeDimensionOverrides: [], config: [], externalData: [] };
    const memory = await loadNative().addon.createSession(unaryModel('Neg', 'float32'), options);
    return new FakeDevice(inner, memory, cudaGraph);
  }

  /** Device tensors that nobody has disposed of. */
  get live(): number {
    return this.#made.filter(({ location }) => location === 'gpu-buffer').length;
  }

  async run(feeds: Feeds, fetches: Fetches, options: StepOptions = {}): Promise<Record<string, unknown>> {
    const given: Readonly<Record<string, Tensor | null>> = Array.isArray(fetches)
      ? Object.fromEntries((fetches as string[]).map((name) => [name, null]))
      : (fetches as Record<string, Tensor | null>);
    const graph = String(options.extra?.['gpu_graph_id'] ?? '');
    this.runs.set(graph, (this.runs.get(graph) ?? 0) + 1);
    if (this.cudaGraph && graph !== '-1') this.#checkReplay(graph, feeds, given);
    const outputs = await this.#inner.run(feeds, given, options.signal ? { signal: options.signal } : {});
    if (options.outputLocation !== 'gpu-buffer') return outputs;
    const entries = Object.entries(outputs).map(async ([name, tensor]): Promise<[string, Tensor]> => {
      return [name, given[name] ?? (await this.toDevice(tensor))];
    });
    return Object.fromEntries(await Promise.all(entries));
  }

  async toDevice(
    source: Tensor | { readonly type: Tensor.Type; readonly dims: readonly number[] },
    into?: Tensor,
  ): Promise<Tensor> {
    const target = into ?? (await allocateOnDevice(this.#memory, source.type, source.dims));
    if (!into) this.#made.push(target);
    if ('location' in source) await copyToDevice(source, target);
    return target;
  }

  async fromDevice(source: Tensor, offset = 0, count = source.size - offset): Promise<Tensor> {
    this.downloaded += count;
    const flat = await copyFromDevice(source, offset, count);
    return count === source.size ? flat.reshape(source.dims) : flat;
  }

  async release(): Promise<void> {
    await this.#inner.release();
    await loadNative().addon.release(this.#memory);
  }

  /** A graph is captured in its first run; replays must come with the very same tensors. */
  #checkReplay(graph: string, feeds: Feeds, fetches: Readonly<Record<string, Tensor | null>>): void {
    checkGraphRun(feeds, fetches, []);
    const numberOf = (tensor: Tensor) => {
      const number = this.#numbers.get(tensor) ?? this.#numbers.size;
      this.#numbers.set(tensor, number);
      return number;
    };
    const tensors = [...Object.entries(feeds), ...Object.entries(fetches)].map(
      ([name, tensor]) => `${name}=${numberOf(tensor!)}`,
    );
    const key = tensors.sort().join();
    assert.equal(key, this.#captured.get(graph) ?? key, `graph ${graph} replayed with other tensors`);
    this.#captured.set(graph, key);
  }
}
