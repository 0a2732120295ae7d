/**
 * Small checks of option values. Each throws a TypeError that names the option's full path, what it is and what it may be.
 */

/** A short picture of any value for an error message. */
export function show(value: unknown): string {
  if (typeof value === 'string') return `'${value}'`;
  if (typeof value === 'bigint') return `${value}n`;
  if (value === null || typeof value !== 'object') return typeof value === 'function' ? 'a function' : String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  return `an object (${value.constructor?.name || 'no prototype'})`;
}

export function optionError(path: string, value: unknown, expected: string, hint = ''): TypeError {
  return new TypeError(`${path}: is ${show(value)}, expected ${expected}.${hint ? ` ${hint}` : ''}`);
}

const quoted = (names: readonly string[]) => names.map((name) => `'${name}'`).join(', ');

export function checkOneOf<T extends string>(value: unknown, path: string, legal: readonly T[]): T {
  if (!legal.includes(value as T)) throw optionError(path, value, `one of ${quoted(legal)}`);
  return value as T;
}

export function checkBoolean(value: unknown, path: string): boolean {
  if (typeof value !== 'boolean') throw optionError(path, value, 'true or false');
  return value;
}

export function checkString(value: unknown, path: string): string {
  if (typeof value !== 'string') throw optionError(path, value, 'a string');
  return value;
}

export function checkInteger(value: unknown, path: string, min: number, max = Number.MAX_SAFE_INTEGER): number {
  if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
    throw optionError(
      path,
      value,
      max === Number.MAX_SAFE_INTEGER ? `an integer ≥ ${min}` : `an integer ${min} … ${max}`,
    );
  }
  return value as number;
}

/** A plain options object: not null, not an array. */
export function checkObject(value: unknown, path: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw optionError(path, value, 'an object');
  return value as Record<string, unknown>;
}

/** Refuses names outside `legal`. A name set to undefined counts as absent. */
export function checkNames(value: Record<string, unknown>, path: string, legal: readonly string[]): void {
  for (const name of Object.keys(value)) {
    if (value[name] !== undefined && !legal.includes(name)) {
      throw new TypeError(`${path}.${name}: is not an option, expected one of ${quoted([...legal].sort())}.`);
    }
  }
}

/**
 * Nested objects as dotted keys: `{session: {x: 1}}` becomes `session.x = "1"`.
 * @throws TypeError for a value that is no string, number or boolean
 */
export function flattenEntries(value: unknown, path: string): [key: string, value: string][] {
  const entries: [string, string][] = [];
  const ancestors = new Set<object>();
  const visit = (object: Record<string, unknown>, prefix: string) => {
    if (ancestors.has(object)) throw new TypeError(`${path}: contains itself, expected a tree of options.`);
    ancestors.add(object);
    for (const [name, child] of Object.entries(object)) {
      const key = prefix ? `${prefix}.${name}` : name;
      if (child === undefined) continue;
      if (typeof child === 'string') entries.push([key, child]);
      else if (typeof child === 'number') entries.push([key, String(child)]);
      else if (typeof child === 'boolean') entries.push([key, child ? '1' : '0']);
      else if (typeof child === 'object' && child !== null && !Array.isArray(child)) {
        visit(child as Record<string, unknown>, key);
      } else throw optionError(`${path}.${key}`, child, 'a string, a number, a boolean or an object of these');
    }
    ancestors.delete(object);
  };
  visit(checkObject(value, path), '');
  return entries;
}
