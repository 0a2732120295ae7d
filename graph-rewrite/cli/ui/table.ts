import Table from 'cli-table3';

const chars = {
  mid: '─',
  'left-mid': '',
  'mid-mid': '──',
  'right-mid': '',
  middle: '  ',
  left: '',
  right: '',
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
};

/** A number with an optional unit, or nothing. */
const numberLike = /^[-+]?[\d.,]+( ?\S{1,6})?$|^[-–]?$/;

/**
 * A plain table: a header, a rule, rows. Columns whose cells are all numbers are aligned right.
 * @returns text without a final newline
 */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const out = new Table({
    head: [...head],
    colAligns: head.map((_, column) => (rows.every((row) => numberLike.test(row[column] ?? '')) ? 'right' : 'left')),
    style: { head: [], border: [], compact: true, 'padding-left': 0, 'padding-right': 0 },
    chars,
  });
  out.push(...rows.map((row) => [...row]));
  return out
    .toString()
    .split('\n')
    .map((row) => row.trimEnd())
    .join('\n');
}
