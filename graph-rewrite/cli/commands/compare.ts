import { internalError } from '../../../ops/common/errors.js';
export function run(): Promise<number> {
  throw internalError('command', 'not wired');
}
