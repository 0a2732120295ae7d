/** Where the result goes, and whether it may: asked before any work is done. */
import { accessSync, closeSync, constants, openSync, readSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { inputError, usageError } from '../../ops/common/errors.js';
import type { Recipe } from '../recipes/index.js';

/** `<model>_<bits>.onnx` next to the model: `model.onnx` with `atom-w4a4` gives `model_w4a4.onnx`. */
export function defaultOutput(model: string, recipe: Recipe): string {
  const bits = /w\d+a\d+(kv\d+)?/.exec(recipe.name)?.[0] ?? recipe.name;
  return join(dirname(model), `${basename(model, '.onnx')}_${bits}.onnx`);
}

/**
 * Refuses an output that cannot be written, or must not be. Saving checks again: this only spares the work before it.
 * @param files what will be written, the model first
 */
export function checkOutput(files: readonly string[], force: boolean): void {
  for (const file of files) {
    if (file === '') throw usageError('--output', 'empty name given, expected a file name');
    const found = statSync(file, { throwIfNoEntry: false });
    if (found?.isDirectory()) throw usageError(file, 'is a folder, expected a file name', 'Name the file with -o.');
    if (found && !force)
      throw usageError(file, 'exists already', 'Choose another output with -o, or replace it with --force.');
  }
  const folder = dirname(resolve(files[0]!));
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) {
    throw inputError(files[0]!, `the folder ${folder} does not exist, expected one to write in`, 'Create it first.');
  }
  try {
    accessSync(folder, constants.W_OK);
  } catch (cause) {
    throw inputError(files[0]!, `no permission to write in ${folder}`, 'Choose another output with -o.', cause);
  }
}

/**
 * Refuses an output of a dry run, which writes a plan: where a plan cannot be written, under the name of a model, and in place of what is no plan.
 * @throws usage error
 */
export function checkPlanOutput(file: string, force: boolean): void {
  if (/\.onnx(_data)?$/.test(file))
    throw usageError(
      file,
      'is the name of a model, expected one for the plan that --dry-run writes',
      'Choose a name such as plan.json with -o, or leave --dry-run out.',
    );
  checkOutput([file], force);
  if (statSync(file, { throwIfNoEntry: false })?.isFile() && !startsAsJson(file))
    throw usageError(file, 'holds something else, expected a plan to replace', 'Choose another output with -o.');
}

/** Whether the first character that is not blank opens an object. */
function startsAsJson(file: string): boolean {
  const begin = Buffer.alloc(64);
  const open = openSync(file, 'r');
  try {
    const text = begin.toString('latin1', 0, readSync(open, begin));
    return text.trimStart().startsWith('{');
  } finally {
    closeSync(open);
  }
}
