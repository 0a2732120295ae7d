import { deepEqual } from 'node:assert/strict';
import { Layout } from '../../native/js/lm/layout.js';
import type { Step } from '../../native/js/lm/feeds.js';

const rows = (data: ArrayLike<number>, batch: number) =>
  Array.from({ length: batch }, (_, b) =>
    Array.from(data)
      .slice((b * data.length) / batch, ((b + 1) * data.length) / batch)
      .join(''),
  );
const shown = ({ batch, ids, positions, mask }: Step) => ({
  ids: rows(ids, batch),
  positions: rows(positions, batch),
  mask: rows(mask, batch),
});
const prompts = [
  [4, 5],
  [6, 7, 8],
];

describe('layout of a batch', () => {
  it('padded on the left ends in one column', () => {
    const layout = new Layout('left', 2);
    const prompt = layout.begin(prompts);
    deepEqual(shown(prompt), { ids: ['045', '678'], positions: ['001', '012'], mask: ['011', '111'] });
    deepEqual([prompt.lastOnly, layout.lastRows(3)], [true, [2, 2]]);
    deepEqual(shown(layout.append([[1], [2]])), { ids: ['1', '2'], positions: ['2', '3'], mask: ['0111', '1111'] });
    deepEqual(shown(layout.append([[1], [0]], [false, true])), {
      ids: ['1', '0'],
      positions: ['3', '3'],
      mask: ['01111', '11110'], // the finished one has no more positions
    });
    deepEqual([layout.lengths, layout.used(0), layout.used(1)], [[4, 4], 5, 5]);
  });

  it('padded on the right, each row grows behind its last token', () => {
    const layout = new Layout('right', 2);
    const prompt = layout.begin(prompts);
    deepEqual(shown(prompt), { ids: ['450', '678'], positions: ['010', '012'], mask: ['110', '111'] });
    deepEqual([prompt.lastOnly, layout.lastRows(3)], [false, [1, 2]]);
    deepEqual(shown(layout.append([[1], [2]])), { ids: ['1', '2'], positions: ['2', '3'], mask: ['1110', '1111'] });
    deepEqual(layout.lastRows(1), [0, 0]);
    deepEqual(shown(layout.append([[1], [0]], [false, true])), {
      ids: ['1', '0'],
      positions: ['3', '3'],
      mask: ['1111', '1111'],
    });
    deepEqual([layout.lengths, layout.used(0), layout.used(1)], [[4, 4], 4, 4]);
  });

  it('takes several tokens at once', () => {
    for (const padding of ['left', 'right'] as const) {
      const layout = new Layout(padding, 2);
      layout.begin(prompts);
      const step = layout.append([
        [1, 2],
        [3, 4],
      ]);
      const mask = padding === 'left' ? ['01111', '11111'] : ['11110', '11111'];
      deepEqual(shown(step), { ids: ['12', '34'], positions: ['23', '34'], mask });
      deepEqual([layout.lastRows(2), layout.lengths, step.start], [[1, 1], [4, 5], 3]);
    }
  });

  it('may have a mask as wide as a buffer', () => {
    const layout = new Layout('right', 2);
    layout.begin(prompts);
    deepEqual(shown(layout.append([[1], [2]], [], 6)).mask, ['111000', '111100']);
  });
});
