/** Prompts of a batch: what they must be, and the runs that they are cut into. */
import { inputError, usageError, type LowbitError } from '../../../ops/common/errors.js';
import { checkIds, checkIsList } from './ids.js';
import type { TextModel } from './text-model.js';

/** Whether a batch may take several tokens behind others in one run. */
export function takesPieces({ pieces, past }: TextModel, batch: number): boolean {
  return past.length > 0 && (pieces === 'any' || (pieces === 'one' && batch === 1));
}

/** Prompts in the order of their runs: beginnings of all, then pieces that are equally long, the last token of each in the last one. */
export function cutPrompts(
  model: TextModel,
  prompts: readonly (readonly number[])[],
  tokensPerRun = 2048,
): (readonly number[])[][] {
  if (!Number.isInteger(tokensPerRun) || tokensPerRun < 1)
    throw usageError('tokensPerRun', `is ${tokensPerRun}, expected at least 1`);
  const lengths = prompts.map(({ length }) => length);
  const all = prompts.length * Math.max(...lengths);
  if (!takesPieces(model, prompts.length) || all <= tokensPerRun) return [[...prompts]];
  const size = Math.max(1, Math.floor(tokensPerRun / prompts.length));
  const count = Math.floor((Math.min(...lengths) - 1) / size);
  const ends = Array.from({ length: count + 1 }, (_, i) => (count - i) * size);
  return ends.map((rest, i) =>
    prompts.map((prompt) => prompt.slice(i === 0 ? 0 : prompt.length - rest - size, prompt.length - rest)),
  );
}

/** @throws input error for a text that no run of the model can begin with */
export function checkPrompt(model: TextModel, prompt: readonly number[], at: string): void {
  checkIsList(prompt, at, 'token ids');
  if (prompt.length === 0) throw inputError(at, 'has no tokens, expected at least one');
  checkIds(prompt, model.vocabulary, at);
  const taken = { positions: prompt.length, columns: prompt.length };
  const problem = roomError(at, taken, { positions: model.positions, capacity: undefined });
  if (problem) throw problem;
}

/** @throws input error for prompts that cannot be one batch */
export function checkPrompts(model: TextModel, prompts: readonly (readonly number[])[]): void {
  checkIsList(prompts, 'prompts', 'texts, each an array of token ids');
  if (prompts.length === 0) throw inputError('prompts', 'has no texts, expected at least one');
  const fixed = model.ids.shape[0];
  if (typeof fixed === 'number' && fixed >= 0 && fixed !== prompts.length)
    throw inputError('prompts', `has ${prompts.length} texts, expected ${fixed}, the batch size of the model`);
  prompts.forEach((prompt, i) => {
    checkPrompt(model, prompt, `prompts[${i}]`);
    const first = prompts[0]!.length;
    if (model.padding === undefined && prompt.length !== first)
      throw inputError(
        `prompts[${i}]`,
        `has ${prompt.length} tokens, expected ${first} as in prompts[0]: how to pad this model is not known`,
        'Give facts: textFacts(loadModel(path)), from ort-lowbit/rewriter, or run it alone.',
      );
  });
}

/** Tokens, or columns of the cache that they take up. */
export interface Room {
  /** Of the position table. */
  readonly positions: number | undefined;
  /** Of the cache. */
  readonly capacity: number | undefined;
}

/** What is said of a text that takes up more than there is; undefined if it fits. */
export function roomError(
  at: string,
  taken: { readonly positions: number; readonly columns: number },
  { positions = Infinity, capacity = Infinity }: Room,
): LowbitError | undefined {
  const beyondTable = taken.positions > positions;
  const beyondCache = taken.columns > capacity;
  if (!beyondTable && !beyondCache) return undefined;
  if (beyondCache && (!beyondTable || capacity < positions))
    return inputError(
      at,
      `has ${taken.columns} tokens, expected at most ${capacity}, the capacity of the cache`,
      'Give a larger capacity.',
    );
  return inputError(
    at,
    `has ${taken.positions} tokens, expected at most ${positions}, the rows of the model's position table`,
    'Shorten the text.',
  );
}
