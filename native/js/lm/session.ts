import type { InferenceSession, Tensor } from 'onnxruntime-common';

/** Tensors by input or output name. */
export type Feeds = Record<string, Tensor>;

/** Inputs and outputs of a model, as a session describes them. */
export interface ModelIo {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly inputMetadata: readonly InferenceSession.ValueMetadata[];
  readonly outputMetadata: readonly InferenceSession.ValueMetadata[];
  /** Custom metadata of the model; sessions of this package have it. */
  readonly modelMetadata?: ReadonlyMap<string, string>;
}

/** Run options that decoding uses; only sessions of this package know the first two. */
export interface StepOptions {
  /** Ends the run. */
  readonly signal?: AbortSignal;
  /** Where outputs of this run go, over what the session was made with. */
  readonly outputLocation?: 'cpu' | 'gpu-buffer';
  readonly extra?: Record<string, unknown>;
}

/** What this project needs of a session. This package's and onnxruntime-node's `InferenceSession` both have it. */
export interface ModelSession extends ModelIo {
  run(
    feeds: Feeds,
    fetches: readonly string[] | Readonly<Record<string, Tensor | null>>,
    options?: StepOptions,
  ): Promise<Readonly<Record<string, unknown>>>;
  release(): Promise<void>;
}

/** A session whose tensors may stay in the memory of a device; this package's `InferenceSession`. */
export interface DeviceSession extends ModelSession {
  /** Where the model runs. */
  readonly device: 'cpu' | 'cuda';
  readonly deviceId: number;
  /** Whether runs replay a captured CUDA graph, which takes device tensors of fixed addresses only. */
  readonly cudaGraph: boolean;
  toDevice(
    source: Tensor | { readonly type: Tensor.Type; readonly dims: readonly number[] },
    into?: Tensor,
  ): Promise<Tensor>;
  fromDevice(source: Tensor, offset?: number, count?: number): Promise<Tensor>;
}
