/** Opening models to run them. The native library is loaded here, when the first session is asked for. */
import { existsSync } from 'node:fs';
import { inputError } from '../../ops/common/errors.js';
import type { Generator, InferenceSession } from '../../native/js/index.js';
import { textFacts, type CreateSession, type ModelSession, type TextFacts } from '../lm/index.js';
import { loadModel } from '../onnx/read.js';
import type { RoundingFunctions } from '../round/index.js';

/** A model that runs, and what only its graph tells about feeding it. */
export interface OpenModel {
  readonly session: ModelSession;
  readonly facts: TextFacts;
}

/**
 * Opens a model file, as the commands that run models do.
 * @param threads inside an operator; without it ONNX Runtime takes one per core
 */
export async function openModel(path: string, threads?: number): Promise<OpenModel> {
  requireModel(path);
  const facts = textFacts(loadModel(path));
  const create = await sessionFactory(threads);
  return { facts, session: await create(path) };
}

/** Opens a model file to write text with. */
export async function openGenerator(
  path: string,
  { device, threads }: { device: 'cpu' | 'cuda'; threads?: number },
): Promise<Generator> {
  requireModel(path);
  const facts = textFacts(loadModel(path));
  const { Generator } = await loadHost();
  return Generator.create(path, {
    device,
    facts,
    session: threads === undefined ? {} : { intraOpNumThreads: threads },
  });
}

/** What the library's stages are given to open sessions with. */
export async function sessionFactory(threads?: number): Promise<CreateSession> {
  const { InferenceSession } = await loadHost();
  const base = threads === undefined ? {} : { intraOpNumThreads: threads };
  return (model, given = {}) => {
    const options = { ...base, ...given };
    return typeof model === 'string'
      ? InferenceSession.create(model, options)
      : InferenceSession.create(model, options);
  };
}

/** What `roundWeights` is given to round with. */
export async function roundingFunctions(): Promise<RoundingFunctions> {
  const { loadNative } = await orExplain(import('../../native/js/load.js'));
  return loadNative().addon;
}

async function loadHost(): Promise<{
  readonly InferenceSession: typeof InferenceSession;
  readonly Generator: typeof Generator;
}> {
  return orExplain(import('../../native/js/index.js'));
}

async function orExplain<T>(loading: Promise<T>): Promise<T> {
  try {
    return await loading;
  } catch (cause) {
    const why = (cause as Error).message.split('\n')[0];
    throw inputError(
      'native library',
      `does not load (${why}), expected a build for this machine`,
      'Run rewrite doctor.',
      cause,
    );
  }
}

const commandNames = ['inspect', 'eval', 'compare', 'generate', 'recipes', 'doctor'];

/** Refuses a model path that is not there before anything else is loaded. */
export function requireModel(path: string): void {
  if (existsSync(path)) return;
  const isWord = /^[a-z]+$/.test(path);
  throw inputError(
    path,
    'no such file, expected an ONNX model',
    isWord ? `The commands are ${commandNames.join(', ')}.` : 'Check the path.',
  );
}
