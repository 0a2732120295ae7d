import { deepEqual, equal, throws } from 'node:assert/strict';
import { cutPrompts, describeTextModel, readTextFacts, type TextFacts } from '../../native/js/lm/index.js';
import { TextsView } from '../../graph-rewrite/cli/ui/texts.js';
import { countingSession } from '../helpers/fake-session.js';

const model = (facts: TextFacts) => describeTextModel(countingSession(100), { padding: 'right', ...facts });
const count = (length: number, from = 0) => Array.from({ length }, (_, i) => from + i);

describe('prompts in pieces', () => {
  it('end together, in pieces of equal length after the first', () => {
    const prompts = [count(7), count(5, 10)];
    deepEqual(cutPrompts(model({ pieces: 'any' }), prompts, 4), [
      [count(3), count(1, 10)],
      [count(2, 3), count(2, 11)],
      [count(2, 5), count(2, 13)],
    ]);
  });

  it('leave at least one token to the first run', () => {
    deepEqual(cutPrompts(model({ pieces: 'any' }), [count(6)], 3), [[count(3)], [count(3, 3)]]);
    deepEqual(cutPrompts(model({ pieces: 'any' }), [count(9), [1]], 4), [[count(9), [1]]]);
  });

  it('are whole where they are short, or the model does not take pieces', () => {
    const whole = [[count(6), count(6)]];
    deepEqual(cutPrompts(model({ pieces: 'any' }), whole[0]!, 12), whole);
    deepEqual(cutPrompts(model({ pieces: 'one' }), whole[0]!, 4), whole);
    deepEqual(cutPrompts(model({}), whole[0]!, 4), whole);
    equal(cutPrompts(model({ pieces: 'one' }), [count(6)], 4).length, 2);
    throws(() => cutPrompts(model({}), whole[0]!, 0), /tokensPerRun: is 0, expected at least 1/);
  });
});

describe('text facts in the metadata', () => {
  it('are read, and refused if they are broken', () => {
    deepEqual(readTextFacts(undefined), {});
    deepEqual(readTextFacts(new Map([['lowbit.text', '{"padding":"left"}']])), { padding: 'left' });
    throws(
      () => readTextFacts(new Map([['lowbit.text', '{']])),
      /metadata "lowbit\.text": is not JSON \(.*\), expected what/,
    );
  });
});

describe('texts on the screen', () => {
  it('come one after the other, the first as it is written', () => {
    const written: string[] = [];
    const view = new TextsView((text) => text && written.push(text), ['A', 'B']);
    view.push(1, 'y');
    view.push(0, 'x');
    view.end(1);
    deepEqual(written, ['A', 'x']);
    view.end(0);
    deepEqual(written, ['A', 'x', '\n\n', 'By']);
  });
});
