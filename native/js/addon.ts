/**
 * The one typed seam to native code: what `ort_lowbit_host.node` exports. Arguments are checked before they get here.
 */

declare const sessionBrand: unique symbol;
declare const deviceBrand: unique symbol;
/** A native session; an opaque handle. */
export interface NativeSession {
  readonly [sessionBrand]: never;
}
/** The memory of a tensor on a device; an opaque handle. */
export interface NativeDeviceTensor {
  readonly [deviceBrand]: never;
}

/** A value going in. `type` is ONNX's element type number; `data` covers exactly the elements' bytes. */
export interface NativeInput {
  readonly type: number;
  readonly dims: readonly number[];
  readonly data: Uint8Array | readonly string[];
}

/** A value going into a run: on the host, or the handle of one on a device, which knows its type and dims. */
export type NativeValue = NativeInput | NativeDeviceTensor;

/** A value coming out. */
export interface NativeOutput {
  readonly type: number;
  readonly dims: number[];
  readonly data: ArrayBuffer | string[] | NativeDeviceTensor;
  /** Bytes on the device; only there. */
  readonly byteLength?: number;
}

export interface NativeValueInfo {
  readonly name: string;
  /** 0: not a tensor. */
  readonly type: number;
  /** A name, possibly empty, for each dimension that is not fixed. */
  readonly shape: readonly (number | string)[];
}

type Entry = readonly [key: string, value: string];

export interface NativeSessionOptions {
  intraOpNumThreads?: number;
  interOpNumThreads?: number;
  graphOptimizationLevel?: number;
  executionMode?: number;
  logSeverityLevel?: number;
  logVerbosityLevel?: number;
  enableCpuMemArena?: boolean;
  enableMemPattern?: boolean;
  optimizedModelFilePath?: string;
  profileFilePrefix?: string;
  logId?: string;
  freeDimensionOverrides: readonly Entry[];
  config: readonly Entry[];
  /** CUDA provider options; absent: CPU only. */
  cuda?: readonly Entry[];
  deviceId?: number;
  externalData: readonly { readonly path: string; readonly data: Uint8Array }[];
}

export interface NativeRunOptions {
  logSeverityLevel?: number;
  logVerbosityLevel?: number;
  tag?: string;
  terminate?: boolean;
  config: readonly Entry[];
}

export interface CudaFacts {
  readonly driverFound: boolean;
  /** Why there is no usable device; empty when there is one. */
  readonly error: string;
  /** As CUDA counts: 13000 is 13.0; 0 when unknown. */
  readonly driverVersion: number;
  readonly devices: readonly { readonly name: string; readonly capability: string; readonly memoryBytes: number }[];
}

/** How `gptq` rounds: sizes, grid and order; see native/offline/gptq.h. */
export interface GptqSpec {
  /** Output channels N. */
  readonly rows: number;
  /** Input channels K in storage order: body, then outliers. */
  readonly cols: number;
  readonly outlierChannels: number;
  /** Body channels that share a scale; 0: the whole body. */
  readonly groupSize: number;
  readonly channelGroup: number;
  readonly grid: 's4' | 's8' | 'e2m1' | 'e3m0' | 'bnb_fp4' | 'e4m3';
  /** Powers of two among the scales; see native/offline/scale_rule.h. Default: none. */
  readonly scaleConstraint?: 'none' | 'm1' | 'm2';
  /** How their exponents are rounded. Default: best. */
  readonly scaleRound?: 'ceil' | 'floor' | 'best';
  /** scale = clip · absmax / rangeMax. */
  readonly rangeMax: number;
  readonly clip: number;
  /** The clip ratio with the smallest squared error instead, weighted by the Hessian's diagonal or not. Default: none. */
  readonly clipSearch?: 'none' | 'mse' | 'hessian';
  /** Damping as a share of the Hessian's mean diagonal. */
  readonly percdamp: number;
  /** Round the body from its last channel to its first. */
  readonly bodyDescending: boolean;
  readonly threads: number;
}

/** Rounded weights: codes [rows, cols], float16 scales [rows, groups] and [rows]. */
export interface GptqResult {
  readonly codes: Int8Array;
  readonly scales: Uint16Array;
  readonly outlierScales: Uint16Array;
  /** GPTQ's estimate of tr(ΔW·H·ΔWᵀ). */
  readonly loss: number;
  /** What was added to the Hessian's diagonal. */
  readonly damping: number;
}

export interface Addon {
  load(runtimePath: string, operatorLibraryPath: string, logLevel: number): { version: string; apiVersion: number };
  createSession(source: string | Uint8Array, options: NativeSessionOptions): Promise<NativeSession>;
  describeSession(session: NativeSession): {
    inputs: NativeValueInfo[];
    outputs: NativeValueInfo[];
    /** Custom metadata of the model. */
    metadata: Entry[];
  };
  run(
    session: NativeSession,
    id: number,
    inputNames: readonly string[],
    inputs: readonly NativeValue[],
    outputNames: readonly string[],
    /** A value to fill, null: on the CPU, true: stays on the device. */
    outputs: readonly (NativeValue | null | true)[],
    options: NativeRunOptions,
  ): Promise<(NativeOutput | null)[]>;
  terminate(session: NativeSession, id: number): void;
  release(session: NativeSession): Promise<void>;
  endProfiling(session: NativeSession): string;
  allocate(session: NativeSession, type: number, dims: readonly number[]): Promise<NativeDeviceTensor>;
  upload(tensor: NativeDeviceTensor, bytes: Uint8Array): Promise<void>;
  /** A range of the tensor's bytes. */
  download(tensor: NativeDeviceTensor, offset: number, byteLength: number): Promise<ArrayBuffer>;
  dispose(tensor: NativeDeviceTensor): void;
  /** Ends all runs and threads of the process's sessions, in every thread. */
  stopEverything(): void;
  describeOps(): string;
  forceKernel(op: string, name: string | null): number;
  cudaFacts(): CudaFacts;
  /** Overwrites both arrays: weights [rows, cols], hessian [cols, cols]. */
  gptq(weights: Float32Array, hessian: Float32Array, spec: GptqSpec): Promise<GptqResult>;
  /** tr(D·H·Dᵀ) of rows D [n, cols] and a symmetric matrix H [cols, cols]: what a change D of weights costs. */
  quadraticForm(rows: Float32Array, matrix: Float32Array, cols: number, threads: number): Promise<number>;
  /**
   * The best approximation up·down of a matrix [rows, cols] by one of rank `rank` (at most its smaller side): U·√S [rows, rank] and
   * √S·Vᵀ [rank, cols] of its singular value decomposition.
   */
  lowRank(
    matrix: Float32Array,
    rows: number,
    cols: number,
    rank: number,
    threads: number,
  ): Promise<{ readonly up: Float32Array; readonly down: Float32Array }>;
}
