/** Option values: words to numbers, with a complaint that names the option and what it takes. */
import { usageError } from '../../ops/common/errors.js';

/** A parser for whole numbers of at least `minimum`, at most `maximum`. */
export function wholeNumber(
  option: string,
  minimum: number,
  maximum = Number.MAX_SAFE_INTEGER,
): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < minimum || value > maximum) {
      const most = maximum === Number.MAX_SAFE_INTEGER ? '' : `, at most ${maximum}`;
      throw usageError(option, `${JSON.stringify(text)} given, expected a whole number of at least ${minimum}${most}`);
    }
    return value;
  };
}

/** A parser for finite numbers of at least `minimum`. */
export function finiteNumber(option: string, minimum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < minimum) {
      throw usageError(option, `${JSON.stringify(text)} given, expected a number of at least ${minimum}`);
    }
    return value;
  };
}

/** A parser for numbers above 0, at most `maximum`. */
export function positiveNumber(option: string, maximum = Infinity): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value <= 0 || value > maximum) {
      const range = maximum === Infinity ? 'a number above 0' : `a number above 0, at most ${maximum}`;
      throw usageError(option, `${JSON.stringify(text)} given, expected ${range}`);
    }
    return value;
  };
}

/** A parser for one of some words. */
export function oneOf(option: string, words: readonly string[]): (text: string) => string {
  return (text) => {
    if (!words.includes(text))
      throw usageError(option, `${JSON.stringify(text)} given, expected ${words.join(' or ')}`);
    return text;
  };
}

/** Collects the texts of an option that may be given several times. */
export const texts = (text: string, before: readonly string[] = []): string[] => [...before, text];

/** Splits `key=value` words; several may be given. Keys are checked by whoever knows them. */
export function assignments(option: string): (text: string, before: readonly string[]) => string[] {
  return (text, before) => {
    if (!/^[^=\s]+=/.test(text)) {
      throw usageError(
        option,
        `${JSON.stringify(text)} given, expected key=value`,
        'Example: --set outliers.channels=64',
      );
    }
    return [...before, text];
  };
}
