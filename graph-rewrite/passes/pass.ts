import type { PassContext } from './context.js';

/** One kind of edit. A pass carries out what the plan says and decides nothing. */
export interface Pass {
  readonly name: string;
  /** Edits the model; returns how many places it changed. */
  run(context: PassContext): number;
}
