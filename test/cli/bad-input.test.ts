import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Model } from '../../graph-rewrite/ir/index.js';
import { saveModel } from '../../graph-rewrite/onnx/write.js';
import { root, runCli, scratch, type CliOptions, type Folder } from './run-cli.js';
import { tokenFile, writeTinyModel } from './tiny-model.js';

/** A bad situation: what is set up beside a good model, what is typed, what must come back. */
interface BadCase {
  readonly name: string;
  /** Sets the folder up and returns the words after `rewrite`. */
  readonly args: (folder: Folder) => readonly string[] | Promise<readonly string[]>;
  readonly code: number;
  readonly says: RegExp;
  readonly options?: CliOptions;
  /** Why it cannot be tested here. */
  readonly skip?: string | false;
}

const isRoot = process.getuid?.() === 0;
const tokenizer = join(root, 'models/bookworm-11m/tokenizer.json');
const good = ['model.onnx', '--recipe', 'w4a16'] as const;
const inFolder = (folder: Folder, words: readonly string[]): string[] =>
  words.map((word) => (/\.(onnx|npy|txt|json)$/.test(word) && !word.includes('/') ? folder.file(word) : word));

const cases: readonly BadCase[] = [
  {
    name: 'model does not exist',
    args: (folder) => [folder.file('absent.onnx')],
    code: 3,
    says: /absent\.onnx: no such file, expected an ONNX model/,
  },
  {
    name: 'a word that is no command',
    args: () => ['evaluate'],
    code: 3,
    says: /^evaluate: no such file.*The commands are inspect, eval/,
  },
  {
    name: 'not an ONNX file',
    args: (folder) => {
      writeFileSync(folder.file('text.onnx'), 'It was a dark and stormy night.');
      return inFolder(folder, ['text.onnx', '--recipe', 'w4a16']);
    },
    code: 3,
    says: /text\.onnx: .*not an ONNX model/,
  },
  {
    name: 'truncated file',
    args: async (folder) => {
      await writeTinyModel(folder.file('inline.onnx'), false);
      truncateSync(folder.file('inline.onnx'), Math.floor(statSync(folder.file('inline.onnx')).size * 0.7));
      return inFolder(folder, ['inline.onnx', '--recipe', 'w4a16']);
    },
    code: 3,
    says: /inline\.onnx: is truncated or damaged/,
  },
  {
    name: 'external data missing',
    args: (folder) => {
      rmSync(folder.file('model.onnx_data'));
      return inFolder(folder, good);
    },
    code: 3,
    says: /model\.onnx.*model\.onnx_data/,
  },
  {
    name: 'external data too short',
    args: (folder) => {
      truncateSync(folder.file('model.onnx_data'), 5000);
      return inFolder(folder, good);
    },
    code: 3,
    says: /model\.onnx_data/,
  },
  {
    name: 'external data behind a link out of the folder',
    args: (folder) => {
      mkdirSync(folder.file('elsewhere'));
      cpSync(folder.file('model.onnx_data'), folder.file('elsewhere/data'));
      mkdirSync(folder.file('models'));
      cpSync(folder.file('model.onnx'), folder.file('models/model.onnx'));
      symlinkSync('../elsewhere/data', folder.file('models/model.onnx_data'));
      return [folder.file('models/model.onnx'), '--recipe', 'w4a16'];
    },
    code: 3,
    says: /model\.onnx_data/,
  },
  {
    name: 'model without linear layers',
    args: async (folder) => {
      const model = new Model({ opsetImports: [['', 18]], dir: folder.path });
      const x = model.graph.addInput('x', 'float32', ['n', 4]);
      const y = model.graph.addNode({ opType: 'Relu', name: 'relu', inputs: [x], outputs: ['y'] }).output(0)!;
      model.graph.addOutput(Object.assign(y, { dtype: 'float32', shape: ['n', 4] }));
      await saveModel(model, folder.file('relu.onnx'));
      return inFolder(folder, ['relu.onnx', '--recipe', 'w4a16']);
    },
    code: 3,
    says: /relu\.onnx: .*no linear layer/,
  },
  {
    name: 'calibration is needed and not given',
    args: (folder) => inFolder(folder, ['model.onnx', '--recipe', 'atom-w4a4']),
    code: 2,
    says: /^--calibration: none given, expected data for recipe "atom-w4a4".*--calibration TEXT\.txt --tokenizer tokenizer\.json/,
  },
  {
    name: 'calibration on text without a tokenizer',
    args: (folder) => {
      writeFileSync(folder.file('words.txt'), 'some words');
      return inFolder(folder, ['model.onnx', '--calibration', 'words.txt']);
    },
    code: 2,
    says: /^--tokenizer: none given, expected the tokenizer\.json of the model/,
  },
  {
    name: 'text too short to calibrate',
    args: (folder) => {
      writeFileSync(folder.file('ids.npy'), tokenFile(100));
      return inFolder(folder, ['model.onnx', '--calibration', 'ids.npy']);
    },
    code: 3,
    says: /ids\.npy: has 100 tokens, expected at least 512/,
  },
  {
    name: 'calibration on what is no text',
    args: (folder) => {
      writeFileSync(folder.file('words.txt'), Buffer.alloc(10_000, 0xfe));
      return inFolder(folder, ['model.onnx', '--calibration', 'words.txt', '--tokenizer', tokenizer]);
    },
    code: 3,
    says: /words\.txt: is no UTF-8 text \(100 % of it\), expected a text file/,
  },
  {
    name: 'tokenizer of another model, in calibration',
    args: (folder) => {
      writeFileSync(folder.file('words.txt'), 'The quick brown fox jumps over the lazy dog. '.repeat(400));
      return inFolder(folder, ['model.onnx', '--calibration', 'words.txt', '--tokenizer', tokenizer]);
    },
    code: 3,
    says: /words\.txt: .*vocabulary has 256 entries.*Use the model's own tokenizer/,
  },
  {
    name: 'tokenizer of another model, in generate',
    args: (folder) => ['generate', folder.file('model.onnx'), '--tokenizer', tokenizer, '--prompt', 'Once upon a time'],
    code: 3,
    says: /vocabulary has 256 entries/,
  },
  {
    // ONNX Runtime's telemetry overflows the stack on command lines of this length.
    name: 'a prompt longer than the context',
    args: async (folder) => {
      await writeTinyModel(folder.file('words.onnx'), true, { vocab: 4096 });
      return ['generate', folder.file('words.onnx'), '--tokenizer', tokenizer, '--prompt', 'The sea. '.repeat(8000)];
    },
    code: 3,
    says: /prompts\[0\]: has \d+ tokens, expected at most \d+, the rows of the model's position table/,
  },
  {
    name: 'tokens of another model, in eval',
    args: (folder) => [
      'eval',
      folder.file('model.onnx'),
      '--tokens',
      join(root, 'models/bookworm-11m/eval-tokens.npy'),
    ],
    code: 3,
    says: /eval-tokens\.npy: has token id \d+, the model's vocabulary has 256/,
  },
  {
    name: 'output exists',
    args: (folder) => {
      writeFileSync(folder.file('out.onnx'), 'precious');
      return inFolder(folder, [...good, '-o', 'out.onnx']);
    },
    code: 2,
    says: /out\.onnx: exists already.*--force/,
  },
  {
    name: 'output is the input',
    args: (folder) => inFolder(folder, [...good, '-o', 'model.onnx', '--force']),
    code: 2,
    says: /model\.onnx: is a file of the input model, which is never changed/,
  },
  {
    name: 'output of a dry run is the input',
    args: (folder) => inFolder(folder, [...good, '--dry-run', '-o', 'model.onnx', '--force']),
    code: 2,
    says: /model\.onnx: is the name of a model, expected one for the plan that --dry-run writes/,
  },
  {
    name: 'output of a dry run is another model, whatever its name',
    args: (folder) => {
      copyFileSync(folder.file('model.onnx'), folder.file('precious'));
      return inFolder(folder, [...good, '--dry-run', '-o', folder.file('precious'), '--force']);
    },
    code: 2,
    says: /precious: holds something else, expected a plan to replace/,
  },
  {
    name: 'output is a pipe',
    args: (folder) => {
      execFileSync('mkfifo', [folder.file('pipe.onnx')]);
      return inFolder(folder, [...good, '-o', 'pipe.onnx', '--force']);
    },
    code: 2,
    says: /pipe\.onnx: is no regular file, expected a file name/,
  },
  {
    name: 'output without a name',
    args: (folder) => [...inFolder(folder, good), '-o', ''],
    code: 2,
    says: /^--output: empty name given, expected a file name/,
  },
  {
    name: 'model that has been rewritten',
    args: async (folder) => {
      assert.equal((await runCli(inFolder(folder, [...good, '-o', 'small.onnx']))).code, 0);
      return inFolder(folder, ['small.onnx', '--recipe', 'w4a16']);
    },
    code: 3,
    says: /small\.onnx: .* The model has been rewritten already: start from the float model\.$/,
  },
  {
    name: 'output in a folder that does not exist',
    args: (folder) => [...inFolder(folder, good), '-o', folder.file('no/such/out.onnx')],
    code: 3,
    says: /the folder .*no\/such does not exist.*Create it first/,
  },
  {
    name: 'output unwritable',
    args: (folder) => {
      mkdirSync(folder.file('sealed'));
      chmodSync(folder.file('sealed'), 0o555);
      return [...inFolder(folder, good), '-o', folder.file('sealed/out.onnx')];
    },
    code: 3,
    says: /no permission to write in .*sealed/,
    skip: isRoot && 'the superuser may write anywhere',
  },
  {
    name: 'output on a read-only file system',
    args: (folder) => [...inFolder(folder, good), '-o', '/proc/out.onnx'],
    code: 3,
    says: /\/proc/,
  },
  {
    name: 'file-size limit reached while writing',
    args: (folder) => inFolder(folder, [...good, '-o', 'out.onnx']),
    code: 3,
    says: /out\.onnx: .*(limit|disk is full)/,
    options: { wrapper: ['bash', '-c', 'ulimit -f 16; exec "$@"', 'limited'] },
  },
  {
    name: 'plan of another model',
    args: async (folder) => {
      await writeTinyModel(folder.file('other.onnx'), true, { layers: 1 });
      const made = await runCli(inFolder(folder, ['other.onnx', '--recipe', 'w4a16', '--dry-run', '-o', 'plan.json']));
      assert.equal(made.code, 0, made.stderr);
      return inFolder(folder, ['model.onnx', '--plan', 'plan.json']);
    },
    code: 2,
    says: /^plan: was made for the model/,
  },
  {
    name: 'plan that is none',
    args: (folder) => {
      writeFileSync(folder.file('plan.json'), '{"format": 7}');
      return inFolder(folder, ['model.onnx', '--plan', 'plan.json']);
    },
    code: 2,
    says: /plan\.json/,
  },
];

/** Every file of a folder with its bytes, for before and after. */
function snapshot(folder: Folder): Map<string, string> {
  const files = folder.entries().filter((name) => statSync(folder.file(name), { throwIfNoEntry: false })?.isFile());
  return new Map(files.map((name) => [name, readFileSync(folder.file(name), 'latin1')]));
}

describe('cli: bad input', function () {
  this.timeout(60_000);
  const master = scratch();
  before(() => writeTinyModel(master.file('model.onnx')));
  after(() => master.remove());

  for (const { name, args, code, says, options, skip } of cases) {
    it(`${name}: says so, exit ${code}, nothing written`, async function () {
      if (skip) {
        this.test!.title += ` (${skip})`;
        this.skip();
      }
      const folder = scratch();
      try {
        cpSync(master.path, folder.path, { recursive: true });
        const words = await args(folder);
        const before = snapshot(folder);
        const result = await runCli(words, options);
        assert.equal(result.code, code, result.stderr);
        assert.match(result.stderr.trimEnd().split('\n').at(-1)!, says);
        assert.doesNotMatch(result.stderr, /\n\s+at /, 'no stack');
        assert.deepEqual(snapshot(folder), before);
      } finally {
        folder.remove();
      }
    });
  }
});
