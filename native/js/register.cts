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

type Loader = (request: string, ...rest: unknown[]) => unknown;
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

const holder = Module as unknown as { _load: Loader };
const original = holder._load;
holder._load = function (this: unknown, request: string, ...rest: unknown[]): unknown {
  const loaded = original.call(this, request, ...rest);
  if (request === 'onnxruntime-common') register(loaded);
  return loaded;
};

// The copy beside us, also for programs whose loader passes by the hook above.
register(createRequire(require.resolve('onnxruntime-node/package.json'))('onnxruntime-common'));
