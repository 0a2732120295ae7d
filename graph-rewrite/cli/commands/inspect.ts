/** `rewrite inspect`: every linear layer of a model, and what stands in the way of quantizing it. */
import { analyze } from '../../analyze/index.js';
import { loadModel } from '../../onnx/read.js';
import type { Analysis, LinearSite } from '../../analyze/index.js';
import type { Context } from '../context.js';
import { modelBytes } from '../model-bytes.js';
import { requireModel } from '../session.js';
import { formatBytes, plural } from '../ui/format.js';
import { table } from '../ui/table.js';

export function run(context: Context, args: readonly string[]): Promise<number> {
  const path = args[0]!;
  requireModel(path);
  // Shapes and names are enough: a model whose data file is elsewhere can be looked at too.
  const model = loadModel(path, { requireData: false });
  const analysis = analyze(model);
  const producers = producerNames(analysis);
  const opsets = Object.fromEntries([...model.opsetImports].map(([domain, since]) => [domain || 'ai.onnx', since]));
  const producer = `${model.producerName} ${model.producerVersion}`.trim();
  const linears = analysis.linears.map((site) => ({
    name: site.name,
    role: site.role,
    layer: site.layer ?? null,
    K: site.K,
    N: site.N,
    dtype: site.weight.dtype,
    bias: site.bias !== undefined,
    input: producers.get(site) ?? 'other',
    quantizable: site.quantizable,
    reason: site.reason ?? null,
  }));
  const bytes = modelBytes(model);
  const nearMisses = analysis.nearMisses.map(({ pattern, reason, node }) => ({ pattern, node: node.name, reason }));
  context.result({ model: path, bytes, producer, irVersion: model.irVersion, opsets, linears, nearMisses }, () => {
    const quantizable = linears.filter((each) => each.quantizable).length;
    const weights = linears.reduce((sum, { K, N }) => sum + K * N, 0);
    return [
      `${path}: ${formatBytes(bytes)}, ${producer || 'producer unknown'}, opset ${opsets['ai.onnx'] ?? '?'}`,
      `${plural(linears.length, 'linear layer')}, ${quantizable} quantizable, ${(weights / 1e6).toFixed(1)} M weights`,
      '',
      table(
        ['layer', 'role', 'K', 'N', 'type', 'fed by', 'name', 'quantizable'],
        linears.map((each) => [
          each.layer === null ? '-' : String(each.layer),
          each.role,
          String(each.K),
          String(each.N),
          each.dtype,
          each.input,
          each.name,
          each.quantizable ? 'yes' : `no: ${each.reason ?? ''}`,
        ]),
      ),
      ...(linears.length === 0
        ? [
            '',
            'Nearest misses:',
            ...nearMisses.map(({ pattern, node, reason }) => `  ${pattern} at ${node}: ${reason}`),
          ]
        : []),
    ].join('\n');
  });
  return Promise.resolve(0);
}

/** What makes each layer's input: the operator that quantization can be fused into. */
function producerNames({ inputs }: Analysis): Map<LinearSite, string> {
  return new Map(inputs.flatMap(({ linears, producer }) => linears.map((site) => [site, producer.kind] as const)));
}
