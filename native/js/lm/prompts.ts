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
  const { positions } = model;
  if (positions !== undefined && prompt.length > positions)
    throw roomError(at, prompt.length, { positions, capacity: undefined });
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

/** What is said of a text that is longer than what there is room for. */
export function roomError(
  at: string,
  needed: number,
  { capacity = Infinity, positions = Infinity }: { capacity: number | undefined; positions: number | undefined },
): LowbitError {
  const byTable = positions <= capacity;
  const what = byTable ? "the rows of the model's position table" : 'the capacity of the cache';
  return inputError(
    at,
    `has ${needed} tokens, expected at most ${byTable ? positions : capacity}, ${what}`,
    byTable ? 'Shorten the text.' : 'Give a larger capacity.',
  );
}
