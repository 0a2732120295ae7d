/**
 * The command line: words to a call of the library, its result to stdout. Commands live in commands/, one file each;
 * they are loaded when they are asked for, so that `--help` does not load ONNX Runtime.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, Option } from 'commander';
import { createContext, type Context } from './context.js';
import { fromCommander, reportFailure } from './failure.js';
import { assignments, finiteNumber, oneOf, positiveNumber, texts, wholeNumber } from './options.js';

/** What every command accepts. */
export interface CommonOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
}

type Run<O> = (context: Context, args: readonly string[], options: O) => Promise<number>;

/**
 * Runs the program.
 * @param argv the words after the program's name
 * @returns the exit code: 0 done, 1 kept layers under --strict, 2 usage, 3 input, 70 defect, 130 interrupted
 */
export async function main(argv: readonly string[]): Promise<number> {
  // A reader that has seen enough (`rewrite inspect model.onnx | head`) is no failure, nor is nobody watching the progress.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') process.exit(reportFailure(Object.assign(error, { path: 'stdout' }), false));
  });
  process.stderr.on('error', () => undefined);
  const state = { exitCode: 0 };
  const program = buildProgram(state);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return state.exitCode;
  } catch (error) {
    const json = argv.includes('--json');
    if (!(error instanceof CommanderError)) return reportFailure(error, json);
    if (error.exitCode === 0) return 0; // --help, --version
    return reportFailure(fromCommander(error, commandOf(program, argv)), json);
  }
}

function buildProgram(state: { exitCode: number }): Command {
  const program = new Command('rewrite')
    .description('Rewrites the linear layers of an ONNX transformer to 4 or 8 bits, and runs and measures the result.')
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .addHelpText('after', examples);

  /** Adds the options that all commands share and the error handling; `load` brings the command's code. */
  const command = <O extends CommonOptions>(
    usage: string,
    about: string,
    load: () => Promise<Run<O>>,
    isDefault = false,
  ): Command =>
    program
      .command(usage, { isDefault })
      .description(about)
      .option('--json', 'print the result as one JSON object on stdout')
      .option('-q, --quiet', 'no progress and no remarks on stderr')
      .helpOption('-h, --help', 'print help')
      .action(async (...words: unknown[]) => {
        const options = words.at(-2) as O;
        const args = words.slice(0, -2).filter((word): word is string => typeof word === 'string');
        const context = createContext(options);
        try {
          state.exitCode = await (await load())(context, args, options);
        } finally {
          context.close();
        }
      });

  command(
    'model <model>',
    'rewrite a model (the default command)',
    async () => (await import('./commands/rewrite.js')).run,
    true,
  )
    .option('-o, --output <file>', 'where the new model goes (default: <model>_<recipe>.onnx next to it)')
    .option('-r, --recipe <name>', 'what becomes of the layers, see `rewrite recipes` (default: atom-w4a4)')
    .option('-s, --set <key=value>', 'change one parameter of the recipe; may be repeated', assignments('--set'), [])
    .option('--target <chip>', 'store codes as a chip reads them best: any (default), or sm90 (NVIDIA Hopper)')
    .option('-c, --calibration <file>', 'text (.txt, with --tokenizer), token ids (.npy) or recorded feeds (.npz)')
    .option('-t, --tokenizer <file>', 'tokenizer.json of the model')
    .option(
      '--calibration-windows <n>',
      'windows of text to calibrate on (default: 64, or what the text holds)',
      wholeNumber('--calibration-windows', 1),
    )
    .option(
      '--calibration-length <n>',
      'tokens in such a window (default: 512, or what the model takes)',
      wholeNumber('--calibration-length', 1),
    )
    .option(
      '--budget <nats>',
      'keep the layers that lose most at 8 bits until the predicted KL divergence per token is below this',
      positiveNumber('--budget'),
    )
    .option('--plan <file>', 'carry out a plan written by --dry-run')
    .option('--dry-run', 'show what would be done and write no model; with -o FILE.json write the plan')
    .option('--force', 'replace an existing output')
    .option('--strict', 'exit 1 when a layer stays in float that the recipe wanted to change')
    .addOption(threadsOption('threads that calibrate and round (default: one per core)'));

  command(
    'inspect <model>',
    'list every linear layer: role, shape, and why it can or cannot be quantized',
    async () => (await import('./commands/inspect.js')).run,
  );

  withTokens(command('eval <model>', 'measure perplexity', async () => (await import('./commands/eval.js')).run));

  withTokens(
    command(
      'compare <reference> <model>',
      "measure how far a model's output is from another's",
      async () => (await import('./commands/compare.js')).run,
    ),
  );

  command('generate <model>', 'write text with a model', async () => (await import('./commands/generate.js')).run)
    .requiredOption('-t, --tokenizer <file>', 'tokenizer.json of the model')
    .addOption(
      new Option('-p, --prompt <text>', 'how the text begins; several make a batch')
        .argParser(texts)
        .makeOptionMandatory(),
    )
    .option('-n, --max-tokens <n>', 'how many tokens to write', wholeNumber('--max-tokens', 1), 128)
    .option('--temperature <t>', '0 takes the likeliest token each time', finiteNumber('--temperature', 0), 0)
    .option('--top-k <k>', 'only the k likeliest tokens; 0 for all', wholeNumber('--top-k', 0), 0)
    .option(
      '--top-p <p>',
      'only the likeliest tokens that together have this probability',
      positiveNumber('--top-p', 1),
      1,
    )
    .option(
      '--repetition-penalty <r>',
      'above 1: tokens that were there become less likely',
      positiveNumber('--repetition-penalty'),
      1,
    )
    .option('--stop <text>', 'end before this text; may be repeated', texts, [])
    .option('--device <name>', 'where the model runs: cpu or cuda', oneOf('--device', ['cpu', 'cuda']), 'cpu')
    .option('--seed <s>', 'start of the random numbers', wholeNumber('--seed', 0), 0)
    .addOption(threadsOption());

  command('recipes', 'list the recipes and their parameters', async () => (await import('./commands/recipes.js')).run);
  command(
    'doctor',
    'check the machine: CPU, ONNX Runtime, operator library, CUDA',
    async () => (await import('./commands/doctor.js')).run,
  );

  // exitOverride and the silence are inherited only by commands added later, so they are set on each.
  for (const each of [program, ...program.commands]) {
    each
      .exitOverride()
      .showSuggestionAfterError(false)
      .configureOutput({ writeErr: () => undefined });
  }
  return program;
}

/** The options that choose token ids, for commands that measure on text. */
function withTokens(command: Command): Command {
  return command
    .option('--tokens <file>', 'token ids (.npy)')
    .option('--text <file>', 'text to measure on, with --tokenizer')
    .option('-t, --tokenizer <file>', 'tokenizer.json of the model')
    .option('--length <n>', 'tokens in a window (default: 512, or what the model takes)', wholeNumber('--length', 1))
    .option('--windows <n>', 'at most this many windows', wholeNumber('--windows', 1), 100)
    .addOption(threadsOption());
}

function threadsOption(what = 'threads inside an operator (default: one per core)'): Option {
  return new Option('--threads <n>', what).argParser(wholeNumber('--threads', 1, 1024));
}

/** The command that was being parsed when the error came. */
function commandOf(program: Command, argv: readonly string[]): Command {
  const word = argv.find((each) => !each.startsWith('-')) ?? '';
  return program.commands.find((each) => each.name() === word) ?? program.commands[0] ?? program;
}

function version(): string {
  const file = new URL('../../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

const examples = `
Examples:
  rewrite model.onnx --calibration text.txt --tokenizer tokenizer.json
  rewrite model.onnx -o small.onnx --recipe w4a16
  rewrite model.onnx --recipe w8a8 --dry-run -o plan.json
  rewrite eval small.onnx --text book.txt --tokenizer tokenizer.json
  rewrite generate small.onnx --tokenizer tokenizer.json --prompt "It was"`;
