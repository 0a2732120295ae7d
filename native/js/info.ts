/**
 * What the operator library and the machine say about themselves.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { usageError } from '../../ops/common/errors.js';
import type { CudaFacts } from './addon.js';
import { cudaCauses, cudaProviderFiles } from './cuda-errors.js';
import { loadNative } from './load.js';

/** OrtLowbitDescribe() of the loaded library. */
export interface OperatorLibraryDescription {
  readonly version: string;
  readonly ops: readonly unknown[];
  readonly cpu: { readonly features: readonly string[] };
  readonly kernels: readonly { readonly op: string; readonly name: string; readonly available: boolean }[];
  readonly cuda: { readonly built: boolean; readonly archs: readonly string[] };
}

/** The library's own description of its operators and kernels. */
export function describeOps(): OperatorLibraryDescription {
  return JSON.parse(loadNative().addon.describeOps()) as OperatorLibraryDescription;
}

/**
 * Makes an operator use one kernel, in the whole process; null lets it choose again.
 * @throws LowbitError 'usage' when the operator has no such kernel or this CPU cannot run it; lists those it can
 */
export function forceKernel(op: string, name: string | null): void {
  if (loadNative().addon.forceKernel(op, name) === 0) return;
  const { kernels } = describeOps();
  const available = kernels.filter((kernel) => kernel.op === op && kernel.available).map((kernel) => kernel.name);
  throw usageError(
    `forceKernel("${op}")`,
    `no kernel ${String(name)} here, expected ${available.length > 0 ? `one of ${available.join(', ')}` : `an operator of ${[...new Set(kernels.map((k) => k.op))].join(', ')}`}`,
  );
}

export interface NativeInfo {
  readonly runtime: { readonly path: string; readonly version: string; readonly apiVersion: number };
  readonly addon: string;
  readonly operatorLibrary: { readonly path: string; readonly description: OperatorLibraryDescription };
  readonly cuda: CudaFacts & {
    /** Files of ONNX Runtime's CUDA provider that are not beside the runtime; empty when it is installed. */
    readonly missingProviderFiles: readonly string[];
  };
}

function missingProviderFiles(runtime: string): string[] {
  return cudaProviderFiles.filter((file) => !existsSync(join(dirname(runtime), file)));
}

/** Loads the native parts and reports what was found. */
export function nativeInfo(): NativeInfo {
  const { addon, paths, runtimeVersion, apiVersion } = loadNative();
  return {
    runtime: { path: paths.runtime, version: runtimeVersion, apiVersion },
    addon: paths.addon,
    operatorLibrary: { path: paths.operatorLibrary, description: describeOps() },
    cuda: { ...addon.cudaFacts(), missingProviderFiles: missingProviderFiles(paths.runtime) },
  };
}

/** Why a CUDA session failed with ONNX Runtime's `message`, as far as this machine shows; empty when it was not CUDA. */
export function explainCuda(message: string, deviceId: number): string[] {
  const { addon, paths } = loadNative();
  return cudaCauses({
    message,
    deviceId,
    facts: addon.cudaFacts(),
    missingProviderFiles: missingProviderFiles(paths.runtime),
  });
}
