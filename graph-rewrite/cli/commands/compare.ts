/** `rewrite compare`: how far a model's predictions, and its rewritten layers, are from those of the float model. */
import { tokenFeeds } from '../../calibrate/index.js';
import { loadModel } from '../../onnx/read.js';
import { compareModels } from '../../verify/index.js';
import type { Context } from '../context.js';
import { requireModel, sessionFactory } from '../session.js';
import { tokenInput, type TokenOptions } from '../text-input.js';
import { formatSeconds } from '../ui/format.js';
import { table } from '../ui/table.js';

export async function run(context: Context, args: readonly string[], options: TokenOptions): Promise<number> {
  const started = performance.now();
  const [reference, model] = args as [string, string];
  requireModel(reference);
  requireModel(model);
  const { ids, at } = tokenInput(options);
  const float = loadModel(reference);
  const { length, windows: count } = options;
  const feeds = tokenFeeds(float, ids, { ...(length === undefined ? {} : { length }), count, at });
  const compared = await compareModels({
    ...{ reference: float, rewritten: loadModel(model), feeds },
    total: feeds.count,
    createSession: await sessionFactory(options.threads),
    onProgress: context.progress,
    signal: context.signal,
  });
  const { sqnrDb, klDivergence, top1Agreement, tokens, notRun } = compared;
  const layers = compared.layers.map(({ site, ...each }) => ({ name: site, ...each }));
  const seconds = (performance.now() - started) / 1000;
  context.result({ reference, model, sqnrDb, klDivergence, top1Agreement, tokens, seconds, layers, notRun }, () =>
    [
      ...(layers.length > 0
        ? [
            table(
              ['layer', 'SQNR dB', 'of weights', 'of activations', 'outlier channels'],
              layers.map(({ name, sqnrDb: db, weightError, activationError, outlierShare }) => [
                ...[name, db.toFixed(2)],
                ...[weightError, activationError, outlierShare].map(percent),
              ]),
            ),
            'SQNR: in the running models, errors of earlier layers included. Of weights, of activations: the errors that the layer itself makes',
            'on the float model’s input, as shares of its output’s energy. Outlier channels: their share of the input’s energy.',
            '',
          ]
        : []),
      ...(notRun > 0 ? [`${notRun} layers are in branches that no run took`, ''] : []),
      `logits: SQNR ${sqnrDb.toFixed(2)} dB, KL divergence ${klDivergence.toFixed(4)} nats, same first choice for ${(100 * top1Agreement).toFixed(2)} %`,
      `${tokens} tokens, ${formatSeconds(seconds)}`,
    ].join('\n'),
  );
  return 0;
}

const percent = (share: number | undefined): string =>
  share === undefined ? '-' : `${(100 * share).toPrecision(3)} %`;
