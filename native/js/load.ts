/**
 * Finds and loads what runs models: onnxruntime-node's own shared library, our addon and our operator library.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { inputError } from '../../ops/common/errors.js';
import type { Addon } from './addon.js';
import { common, runtimePackage } from './common.js';
import { readEnvironment } from './env.js';
import { checkForcedKernels } from './forced-kernels.js';

export interface NativePaths {
  /** libonnxruntime, the file that onnxruntime-node's binding links. */
  readonly runtime: string;
  readonly addon: string;
  readonly operatorLibrary: string;
}

const logLevels = ['verbose', 'info', 'warning', 'error', 'fatal'] as const;

const libraryNames: Partial<Record<NodeJS.Platform, { runtime: string; operators: string }>> = {
  linux: { runtime: 'libonnxruntime.so.1', operators: 'libort_lowbit.so' },
  darwin: { runtime: 'libonnxruntime.1.dylib', operators: 'libort_lowbit.dylib' },
};

/**
 * Where the native parts are, whether or not they exist.
 * @throws LowbitError 'input' on a platform without native parts
 */
export function nativePaths(): NativePaths {
  const names = libraryNames[process.platform];
  if (!names) {
    throw inputError(
      `platform ${process.platform}`,
      `not supported, expected one of ${Object.keys(libraryNames).join(', ')}`,
    );
  }
  const require = createRequire(import.meta.url);
  const ownRoot = dirname(require.resolve('ort-lowbit/package.json'));
  const nativeDir = resolve(readEnvironment('ORT_LOWBIT_NATIVE_DIR') ?? join(ownRoot, 'build', 'Release'));
  const adopted = (globalThis as Record<symbol, unknown>)[Symbol.for('ort-lowbit.onnxruntime-node')];
  const runtimeRoot = typeof adopted === 'string' ? adopted : dirname(runtimePackage);
  const runtimeDir = join(runtimeRoot, 'bin', 'napi-v6', process.platform, process.arch);
  return {
    runtime: resolve(readEnvironment('ORT_LOWBIT_RUNTIME') ?? join(runtimeDir, names.runtime)),
    addon: join(nativeDir, 'ort_lowbit_host.node'),
    operatorLibrary: join(nativeDir, names.operators),
  };
}

function requireFile(path: string, what: string, hint: string): void {
  if (!existsSync(path)) throw inputError(path, `no such file, expected ${what}`, hint);
}

export interface LoadedNative {
  readonly addon: Addon;
  readonly paths: NativePaths;
  /** Version of the loaded ONNX Runtime, e.g. "1.29.0". */
  readonly runtimeVersion: string;
  /** Version of its C API table in use. */
  readonly apiVersion: number;
}

let loaded: LoadedNative | undefined;

/**
 * Loads the native parts once.
 * @throws LowbitError 'input' naming the missing, unfit or outdated file and the command that helps, or a wrong environment variable
 */
export function loadNative(): LoadedNative {
  if (loaded) return loaded;
  const paths = nativePaths();
  requireFile(paths.runtime, "onnxruntime-node's shared library", 'Reinstall onnxruntime-node 1.24 or newer.');
  requireFile(paths.addon, "the package's Node addon", 'Run npm run build:native.');
  requireFile(paths.operatorLibrary, 'the operator library', 'Run npm run build:native.');
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(paths.addon) as Addon;
  } catch (cause) {
    throw inputError(paths.addon, `cannot be loaded (${textOf(cause)})`, 'Run npm run build:native.', cause);
  }
  // Worker threads are stopped by Node, with their environment's hooks; the main thread's exit has only this event.
  if (isMainThread) process.once('exit', () => addon.stopEverything());
  // ONNX Runtime's telemetry searches the command line with a recursive regular expression; a long word in it, such as a prompt, then
  // overflows the stack of the process.
  process.env['ORT_DISABLE_TELEMETRY'] ??= '1';
  const logLevel = logLevels.indexOf(common.env.logLevel ?? 'warning');
  try {
    const { version, apiVersion } = addon.load(paths.runtime, paths.operatorLibrary, logLevel);
    loaded = { addon, paths, runtimeVersion: version, apiVersion };
  } catch (cause) {
    throw inputError('native', textOf(cause).replace(/\.$/, ''), '', cause);
  }
  checkForcedKernels(addon);
  return loaded;
}

export function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
