import { statSync } from 'node:fs';
import type { Model } from '../ir/index.js';

/** Size on disk of a model that was read from a file, its data files included; those that are absent count nothing. */
export function modelBytes(model: Model): number {
  const files = new Set([...(model.path === undefined ? [] : [model.path]), ...(model.externalData?.files() ?? [])]);
  let bytes = 0;
  for (const file of files) bytes += statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  return bytes;
}
