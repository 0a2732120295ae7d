/**
 * `node --import ort-lowbit/register app.js` (or `--require`): programs that use onnxruntime-node, as ES modules or as
 * CommonJS, run rewritten models unchanged, off the event loop.
 *
 * onnxruntime-common keeps the backend that was registered first with the higher priority, so ours has to get there
 * before onnxruntime-node does. A program may hold several copies of onnxruntime-common (one per onnxruntime-node
 * version, and the ESM build, which onnxruntime-node never uses); every CommonJS copy is met as it is required, before
 * the onnxruntime-node that requires it registers its own backends.
 */
import { createRequire, Module } from 'node:module';
import type { Backend } from 'onnxruntime-common';

/** onnxruntime-node registers with 100. */
const priority = 1000;

type Loader = (request: string, parent?: { filename?: string | null } | null, ...rest: unknown[]) => unknown;
interface Common {
  registerBackend(name: string, backend: Backend, priority: number): void;
}

// The ES module is imported when the first session is made: this file must finish at once.
const load = async (): Promise<Backend> => (await import('./backend.js')).backend;
const lazyBackend: Backend = {
  init: async (name) => (await load()).init(name),
  createInferenceSessionHandler: async (model, options) => (await load()).createInferenceSessionHandler(model, options),
};

const seen = new WeakSet<object>();
function register(common: unknown): void {
  if (typeof common !== 'object' || common === null || seen.has(common)) return;
  seen.add(common);
  for (const name of ['cpu', 'cuda']) (common as Common).registerBackend(name, lazyBackend, priority);
}

/**
 * The program's onnxruntime-node may be another version than ours. Its binding needs its own libonnxruntime, and a process
 * can hold only one under that name, so ours is taken from there (see load.ts).
 */
function adoptRuntime(requiredBy: string | null | undefined): void {
  const found = /^(.*[\\/]onnxruntime-node)[\\/]dist[\\/]/.exec(requiredBy ?? '')?.[1];
  if (found) (globalThis as Record<symbol, unknown>)[Symbol.for('ort-lowbit.onnxruntime-node')] ??= found;
}

const holder = Module as unknown as { _load: Loader };
const original = holder._load;
holder._load = function (this: unknown, request, parent, ...rest): unknown {
  const loaded = original.call(this, request, parent, ...rest);
  if (request === 'onnxruntime-common') {
    register(loaded);
    adoptRuntime(parent?.filename);
  }
  return loaded;
};

// The copy beside us, also for programs whose loader passes by the hook above.
register(createRequire(require.resolve('onnxruntime-node/package.json'))('onnxruntime-common'));
