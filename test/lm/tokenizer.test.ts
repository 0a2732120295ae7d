import { deepEqual, equal, ok, throws } from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Detokenizer, loadTokenizer, readTokens } from '../../graph-rewrite/lm/index.js';
import { repositoryRoot, temporaryFolder } from '../helpers/files.js';

const bookworm = join(repositoryRoot, 'models', 'bookworm-11m');

describe('tokenizer', () => {
  const tokenizer = loadTokenizer(join(bookworm, 'tokenizer.json'));
  const text = readFileSync(join(bookworm, 'eval.txt'), 'utf8');
  const folder = temporaryFolder();

  it('gives the ids that the model was evaluated on', () => {
    const ids = tokenizer.encode(text.slice(0, 20000));
    ok(ids.length > 4000);
    // The last few may differ: the text is cut inside a word.
    deepEqual(ids.slice(0, -4), [...readTokens(join(bookworm, 'eval-tokens.npy')).subarray(0, ids.length - 4)]);
  });

  it('knows its size and the token that ends a text, also from its folder', () => {
    deepEqual([tokenizer.size, tokenizer.stopIds], [4096, [0]]);
    equal(loadTokenizer(bookworm).path, join(bookworm, 'tokenizer.json'));
  });

  it('gives text back, also one id at a time', () => {
    const part = `${text.slice(0, 3000)} — “déjà vu” 漢字 🙂\n\n  end`;
    const ids = tokenizer.encode(part);
    equal(tokenizer.decode(ids), part);
    const detokenizer = new Detokenizer(tokenizer);
    equal(ids.map((id) => detokenizer.push(id)).join('') + detokenizer.end(), part);
    equal(tokenizer.decode([0]), '');
  });

  it('takes the end of text from tokenizer_config.json', () => {
    writeFileSync(folder.path('tokenizer.json'), readFileSync(join(bookworm, 'tokenizer.json')));
    const end = tokenizer.encode('a')[0]!;
    writeFileSync(folder.path('tokenizer_config.json'), JSON.stringify({ eos_token: { content: 'a' } }));
    ok(loadTokenizer(folder.path('tokenizer.json')).stopIds.includes(end));
  });

  it('refuses what is none, with the reason', () => {
    throws(
      () => loadTokenizer(folder.path('absent.json')),
      /absent\.json: cannot be read \(ENOENT.*\), expected a tokenizer\.json/,
    );
    writeFileSync(folder.path('tokenizer.json'), '{');
    throws(() => loadTokenizer(folder.path('tokenizer.json')), /is not JSON/);
    writeFileSync(folder.path('tokenizer.json'), '{"model": {"type": "Mystery"}}');
    throws(() => loadTokenizer(folder.path('tokenizer.json')), /is not a tokenizer/);
  });
});
