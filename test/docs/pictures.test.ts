import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { drawPictures } from '../../bench/pictures/index.js';
import { root } from '../cli/run-cli.js';

describe('pictures', () => {
  const drawn = drawPictures();
  const folder = join(root, 'docs/img');

  it('docs/img holds what the script draws, and nothing else', () => {
    assert.deepEqual(readdirSync(folder).sort(), [...drawn.keys()].sort());
  });

  for (const [file, svg] of drawn) {
    it(`${file} belongs to its data`, () => {
      const stored = readFileSync(join(folder, file), 'utf8');
      assert.ok(stored === svg, `docs/img/${file} differs from what its data give. Run npm run pictures.`);
      assert.match(svg, /<title>.+<\/title>\n<desc>.+<\/desc>/);
      assert.doesNotMatch(svg, /NaN|undefined|not measured/);
    });
  }

  it('drawn again they are the same', () => {
    assert.deepEqual(drawPictures(), drawn);
  });
});
