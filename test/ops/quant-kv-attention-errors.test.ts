/** What QuantKvAttention says of inputs that do not fit. */
import assert from 'node:assert/strict';
import { Tensor } from '../../native/js/index.js';
import { kvSession, prepareKv, type KvCase } from '../helpers/kv-attention.js';

const half = { rotary: 'half' } as const;

describe('QuantKvAttention refuses', () => {
  const base: KvCase = { title: 'errors', batch: 2, tokens: 2, past: 4, heads: 2, kvHeads: 1, headDim: 32, ...half };
  const inPlace: KvCase = { ...base, past: 8, inPlace: true, lengths: [3, 4] };
  const zeros = (type: 'uint8' | 'float16' | 'float32', dims: number[]) => {
    const count = dims.reduce((all, dim) => all * dim, 1);
    const data = { uint8: new Uint8Array(count), float16: new Uint16Array(count), float32: new Float32Array(count) }[
      type
    ];
    return new Tensor(type as 'uint8', data as Uint8Array, dims);
  };
  const wrong: readonly [string, KvCase, Record<string, Tensor>, RegExp][] = [
    [
      'a cache of the wrong shape',
      base,
      { past_k: zeros('uint8', [2, 1, 4, 32]) },
      /past_k has shape \[2,1,4,32\], expected \[2,1,T,16\]/,
    ],
    [
      'parameters of another length',
      base,
      { past_v_param: zeros('float16', [2, 1, 3, 2]) },
      /past_v_param has shape \[2,1,3,2\], expected \[2,1,4,2\]/,
    ],
    [
      'a batch that differs',
      base,
      { past_v: zeros('uint8', [1, 1, 4, 16]) },
      /past_v has shape \[1,1,4,16\], expected \[2,1,T,16\]/,
    ],
    [
      'a length over the capacity',
      inPlace,
      { lengths: new Tensor('int32', Int32Array.of(3, 9), [2]) },
      /lengths\[1\] is 9, expected 0 … 8, the capacity/,
    ],
    [
      'lengths of another batch',
      inPlace,
      { lengths: new Tensor('int32', Int32Array.of(3), [1]) },
      /lengths has shape \[1\], expected \[2\]/,
    ],
    [
      'a context beyond the position table',
      base,
      { cos: zeros('float32', [5, 16]), sin: zeros('float32', [5, 16]) },
      /a sequence has 6 tokens, expected at most 5/,
    ],
    [
      'a negative length',
      inPlace,
      { lengths: new Tensor('int32', Int32Array.of(-1, 4), [2]) },
      /lengths\[0\] is -1, expected 0 or more.*pad prompts on the right/,
    ],
    [
      'a length over the past and the new tokens',
      { ...base, lengths: [6, 6] },
      { lengths: new Tensor('int32', Int32Array.of(6, 7), [2]) },
      /lengths\[1\] is 7, expected 0 … 6, the tokens of the past and the new ones/,
    ],
    [
      'a buffer without room',
      inPlace,
      Object.fromEntries(
        ['k', 'v'].flatMap((name) => [
          [`past_${name}`, zeros('uint8', [2, 1, 0, 16])],
          [`past_${name}_param`, zeros('float16', [2, 1, 0, 2])],
        ]),
      ),
      /lengths\[0\] is 3, expected 0 … 0, the capacity/,
    ],
    [
      'an empty past of another batch',
      base,
      { past_k: zeros('uint8', [1, 1, 0, 16]), past_k_param: zeros('float16', [1, 1, 0, 2]) },
      /past_k has shape \[1,1,0,16\], expected \[2,1,T,16\]/,
    ],
    [
      'pasts of different lengths',
      base,
      { past_v: zeros('uint8', [2, 1, 3, 16]), past_v_param: zeros('float16', [2, 1, 3, 2]) },
      /past_k \[2,1,4,16\] and past_v \[2,1,3,16\] hold different numbers of tokens/,
    ],
    ['keys of another batch', base, { k: zeros('float32', [1, 2, 32]) }, /k has shape \[1,2,32\], expected \[2,2,32\]/],
    [
      'a mask that is too short',
      { ...base, mask: [1, 1, 2] },
      { mask: zeros('float32', [1, 1, 2, 5]) },
      /mask has shape \[1,1,2,5\], expected \[2 or 1,2 or 1,2 or 1, 6 or more\]/,
    ],
    [
      'queries of another width',
      base,
      { q: zeros('float32', [2, 2, 63]) },
      /q has shape \[2,2,63\], expected \[B,S,64\]/,
    ],
  ];
  for (const [what, c, feeds, message] of wrong) {
    it(what, async () => {
      const good = prepareKv(c, 'float32').feeds;
      const session = await kvSession(c, 'float32', good);
      await assert.rejects(session.run({ ...good, ...feeds }), message);
      await session.release();
    });
  }
  it('a head size that is not a multiple of 16, when the session is made', async () => {
    const c = { ...base, headDim: 40 };
    await assert.rejects(
      kvSession(c, 'float32', prepareKv(c, 'float32').feeds),
      /head_dim is 40, expected a multiple of 16/,
    );
  });
});
