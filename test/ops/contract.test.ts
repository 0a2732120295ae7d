import assert from 'node:assert/strict';
import { describeOps } from '../../native/js/index.js';
import { describeContracts, NormQuantize } from '../../ops/index.js';

describe('operator contracts', () => {
  it('are what the native library says of itself', () => {
    assert.deepEqual(describeOps().ops, describeContracts());
  });

  it('have a portable kernel each, named by their architecture', () => {
    const { kernels } = describeOps();
    for (const { type } of describeContracts()) {
      const names = kernels.filter((kernel) => kernel.op === type).map((kernel) => kernel.name);
      assert.ok(
        names.some((name) => name.endsWith('__scalar')),
        `${type} has ${names.join(', ')}`,
      );
    }
    assert.ok(kernels.every((kernel) => /^[a-z0-9_]+__[a-z0-9]+$/.test(kernel.name)));
  });

  it('build nodes: skipped inputs in place, none at the end, defaults filled in', () => {
    const node = NormQuantize.node({ x: 'x', weight: 'w', reorder_index: 'order' }, { norm: 'rms', format: 's4' });
    assert.deepEqual(node.inputs, ['x', 'w', undefined, 'order']);
    assert.deepEqual(node.attributes.get('clip'), { type: 'float', value: 1 });
  });

  it('refuse words they do not know', () => {
    assert.throws(
      () => NormQuantize.node({ x: 'x', weight: 'w' }, { norm: 'batch' as never, format: 's4' }),
      /attribute norm is "batch", expected one of rms, layer/,
    );
  });
});
