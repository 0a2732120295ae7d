// `npm run build-model`: LLaMA-shaped ONNX models from a Hugging Face folder or with random weights, of any size.
import { Command, CommanderError, Option } from 'commander';

import { usageError } from '../ops/common/errors.js';
import { reportFailure } from '../graph-rewrite/cli/failure.js';
import { wholeNumber } from '../graph-rewrite/cli/options.js';
import { saveModel } from '../graph-rewrite/onnx/write.js';
import { attentionForms, buildLlama, type AttentionForm } from './build-llama.js';
import { checkConfig, optionName, presets, readConfig, type LlamaConfig } from './llama-config.js';
import { randomSource, safetensorsSource, type FloatType } from './weights.js';

/** Command line options that change the shape, and what they are called in it. */
const shapeOptions = {
  hidden: 'hidden size',
  mlp: 'width of the MLP',
  layers: 'number of layers',
  heads: 'attention heads',
  kvHeads: 'key/value heads',
  headDim: 'size of a head',
  vocab: 'vocabulary',
  maxPositions: 'longest sequence',
} as const satisfies Partial<Record<keyof LlamaConfig, string>>;

interface Options extends Partial<Record<keyof typeof shapeOptions, string>> {
  from?: string;
  preset: string;
  tied?: boolean;
  seed: number;
  dtype: FloatType;
  attention: AttentionForm;
  force?: boolean;
}

const command = new Command('build-model')
  .description('Build a LLaMA-shaped ONNX decoder with a KV cache.')
  .argument('<out.onnx>', 'model to write; weights go to <out.onnx>_data')
  .option(
    '--from <folder>',
    'weights and shape from config.json and safetensors in this folder; otherwise weights are random',
  )
  .addOption(new Option('--preset <name>', 'shape to start from').choices(Object.keys(presets)).default('tiny'));
for (const [name, about] of Object.entries(shapeOptions)) {
  command.option(`${optionName(name)} <n>`, about);
}
command
  .option('--tied', 'the embedding is the output layer')
  .option('--no-tied', 'the output layer has weights of its own')
  .option('--seed <n>', 'seed of the random weights', wholeNumber('--seed', 0), 1)
  .addOption(new Option('--dtype <type>', 'element type').choices(['float32', 'float16']).default('float32'))
  .addOption(
    new Option('--attention <form>', 'which operators attention is made of; gqa is fast')
      .choices(attentionForms)
      .default('gqa'),
  )
  .option('--force', 'replace existing files')
  .configureOutput({ outputError: () => undefined }) // reported below, with the right exit code
  .exitOverride()
  .action(build);

async function build(out: string, options: Options): Promise<void> {
  const config = options.from === undefined ? shapeFrom(options) : readConfig(options.from);
  const weights = options.from === undefined ? randomSource(options.seed) : safetensorsSource(options.from);
  const model = buildLlama(config, weights, options);
  const controller = new AbortController();
  process.once('SIGINT', () => controller.abort());
  const result = await saveModel(model, out, { force: options.force ?? false, signal: controller.signal });
  console.error(`${out}: ${config.layers} layers, ${(result.bytes / 1e6).toFixed(1)} MB`);
}

function shapeFrom(options: Options): LlamaConfig {
  const config = { ...presets[options.preset]! };
  for (const name of Object.keys(shapeOptions) as (keyof typeof shapeOptions)[]) {
    const text = options[name];
    if (text === undefined) continue;
    if (!/^\d+$/.test(text)) throw usageError(optionName(name), `is "${text}", expected a positive integer`);
    config[name] = Number(text);
  }
  if (options.tied !== undefined) config.tied = options.tied;
  checkConfig(config);
  return config;
}

try {
  await command.parseAsync();
} catch (error) {
  // Help is an "error" with exit code 0.
  if (!(error instanceof CommanderError && error.exitCode === 0))
    process.exitCode = reportFailure(asUsageError(error), false);
}

function asUsageError(error: unknown): unknown {
  if (!(error instanceof CommanderError)) return error;
  return usageError('build-model', error.message.replace(/^error: |\.$/g, ''), 'See build-model --help.');
}
