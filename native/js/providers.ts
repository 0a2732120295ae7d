/**
 * Execution providers: 'cpu' and 'cuda', by name or with options.
 */
import type { NativeSessionOptions } from './addon.js';
import { checkBoolean, checkInteger, checkNames, checkObject, flattenEntries, optionError } from './check-option.js';

export interface CpuProviderOptions {
  readonly name: 'cpu';
  /** Same as the session option enableCpuMemArena. */
  useArena?: boolean;
}

export interface CudaProviderOptions {
  readonly name: 'cuda';
  /** CUDA's number of the device; default 0. */
  deviceId?: number;
  /** Most bytes that the provider's arena may take; default: all there is. */
  gpuMemLimit?: number;
  /** Capture the model's kernels into a CUDA graph and replay it; needs fixed shapes and device tensors. Default false. */
  enableCudaGraph?: boolean;
  /** Let float32 MatMul use TF32; default false (float32 stays float32). */
  useTf32?: boolean;
  /** Any further provider option by ONNX Runtime's own name, e.g. `{ arena_extend_strategy: 'kSameAsRequested' }`. */
  extra?: Record<string, unknown>;
}

const names = ['cpu', 'cuda'] as const;

/**
 * The providers' part of the native options. The CPU provider is always there and comes last.
 * @throws TypeError naming the option
 */
export function readProviders(
  value: unknown,
  path: string,
): Pick<NativeSessionOptions, 'cuda' | 'deviceId' | 'enableCpuMemArena'> {
  if (!Array.isArray(value)) throw optionError(path, value, "an array such as ['cuda', 'cpu']");
  const out: Pick<NativeSessionOptions, 'cuda' | 'deviceId' | 'enableCpuMemArena'> = {};
  value.forEach((provider: unknown, i) => {
    const where = `${path}[${i}]`;
    const options = typeof provider === 'string' ? { name: provider } : checkObject(provider, where);
    if (!names.includes(options.name as 'cpu')) {
      const at = typeof provider === 'string' ? where : `${where}.name`;
      throw optionError(at, options.name, `one of ${names.map((name) => `'${name}'`).join(', ')}`);
    }
    if (options.name === 'cuda') Object.assign(out, readCuda(options, where));
    else {
      checkNames(options, where, ['name', 'useArena']);
      if (options.useArena !== undefined) out.enableCpuMemArena = checkBoolean(options.useArena, `${where}.useArena`);
    }
  });
  return out;
}

function readCuda(options: Record<string, unknown>, where: string): Pick<NativeSessionOptions, 'cuda' | 'deviceId'> {
  checkNames(options, where, ['name', 'deviceId', 'gpuMemLimit', 'enableCudaGraph', 'useTf32', 'extra']);
  const flag = (name: string) => (checkBoolean(options[name] ?? false, `${where}.${name}`) ? '1' : '0');
  const deviceId = checkInteger(options.deviceId ?? 0, `${where}.deviceId`, 0, 1023);
  const entries: [string, string][] = [
    ['device_id', String(deviceId)],
    ['enable_cuda_graph', flag('enableCudaGraph')],
    ['use_tf32', flag('useTf32')],
  ];
  if (options.gpuMemLimit !== undefined) {
    entries.push(['gpu_mem_limit', String(checkInteger(options.gpuMemLimit, `${where}.gpuMemLimit`, 1))]);
  }
  if (options.extra !== undefined) entries.push(...flattenEntries(options.extra, `${where}.extra`));
  return { cuda: entries, deviceId };
}
