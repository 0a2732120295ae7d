import assert from 'node:assert/strict';
import { runCli } from './run-cli.js';

interface UsageCase {
  readonly name: string;
  readonly args: readonly string[];
  readonly says: RegExp;
}

const cases: readonly UsageCase[] = [
  {
    name: 'unknown option',
    args: ['eval', 'm.onnx', '--windw', '3'],
    says: /^--windw: unknown option of rewrite eval, expected one of .*--windows/,
  },
  { name: 'missing model', args: ['inspect'], says: /^rewrite inspect: no model given, expected .*<model>/ },
  {
    name: 'too many words',
    args: ['eval', 'a.onnx', 'b.onnx'],
    says: /^rewrite eval: too many arguments \(a\.onnx b\.onnx\)/,
  },
  { name: 'option without a value', args: ['eval', 'm.onnx', '--tokens'], says: /^--tokens.*: no value given/ },
  {
    name: 'number that is none',
    args: ['eval', 'm.onnx', '--length', 'x'],
    says: /^--length: "x" given, expected a whole number/,
  },
  {
    name: 'number too small',
    args: ['eval', 'm.onnx', '--windows', '0'],
    says: /^--windows: "0" given, expected .* at least 1/,
  },
  {
    name: '--set without =',
    args: ['m.onnx', '--set', 'outliers'],
    says: /^--set: "outliers" given, expected key=value/,
  },
  {
    name: 'unknown recipe',
    args: ['m.onnx', '--recipe', 'w3a3'],
    says: /^--recipe: unknown recipe "w3a3", expected one of atom-w4a4, .*w4a16/,
  },
  {
    name: 'unknown target',
    args: ['m.onnx', '--target', 'sm42'],
    says: /^--target: unknown target "sm42", expected one of any, sm90/,
  },
  ...['--dry-run', '--budget=1', '--recipe=w8a8', '--set=weight.clip=1', '--target=any'].map((option) => ({
    name: `${option} beside a plan`,
    args: ['m.onnx', '--plan', 'plan.json', option],
    says: new RegExp(`^--plan, ${option.split('=')[0]!}: both given, expected one`),
  })),
  {
    name: 'unknown recipe parameter',
    args: ['m.onnx', '--set', 'outlier.chanels=3'],
    says: /unknown key "outlier.chanels"[\s\S]*outliers\.channels/,
  },
  {
    name: 'illegal parameter value',
    args: ['m.onnx', '--set', 'weight.format=s3'],
    says: /weight\.format=s3: value is "s3", expected s4 \| s8/,
  },
  {
    name: 'a share above 1',
    args: ['generate', 'm.onnx', '--top-p', '2'],
    says: /^--top-p: "2" given, expected a number above 0, at most 1/,
  },
  {
    name: 'a device that is none',
    args: ['generate', 'm.onnx', '--device', 'tpu'],
    says: /^--device: "tpu" given, expected cpu or cuda/,
  },
  {
    name: 'more threads than any machine has',
    args: ['eval', 'm.onnx', '--threads', '100000'],
    says: /^--threads: "100000" given, expected a whole number of at least 1, at most 1024/,
  },
  { name: 'missing required option', args: ['generate', 'm.onnx', '--prompt', 'x'], says: /--tokenizer/ },
];

describe('cli: wrong usage', () => {
  for (const { name, args, says } of cases) {
    it(`${name}: one message, exit 2`, async () => {
      const plain = await runCli(args);
      assert.equal(plain.code, 2, plain.stderr);
      assert.match(plain.stderr, says);
      assert.doesNotMatch(plain.stderr, /\n\s+at /, 'no stack');
      assert.equal(plain.stdout, '');

      const json = await runCli([args[0]!, '--json', ...args.slice(1)]);
      assert.equal(json.code, 2);
      const { error } = json.json() as { error: { code: string; message: string; exitCode: number } };
      assert.equal(error.code, 'usage');
      assert.equal(error.exitCode, 2);
      assert.match(error.message, says);
    });
  }

  it('help and version end with 0 on stdout', async () => {
    const help = await runCli(['--help']);
    assert.equal(help.code, 0);
    for (const command of ['inspect', 'eval', 'compare', 'generate', 'recipes', 'doctor']) {
      assert.match(help.stdout, new RegExp(`^  ${command} `, 'm'));
    }
    assert.match((await runCli(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
  });

  it('recipes lists every recipe with its parameters', async () => {
    const text = await runCli(['recipes']);
    assert.equal(text.code, 0);
    const { recipes, settings } = (await runCli(['recipes', '--json'])).json() as {
      recipes: { name: string }[];
      settings: { key: string }[];
    };
    for (const { name } of recipes) assert.ok(text.stdout.includes(name));
    for (const { key } of settings) assert.ok(text.stdout.includes(key));
  });

  it('a reader of stdout that goes away changes no exit code; a full disk behind it is said', async () => {
    const unread = ['bash', '-o', 'pipefail', '-c', '"$@" | true', 'unread'];
    assert.equal((await runCli(['recipes', '--json'], { wrapper: unread })).code, 0);
    assert.equal((await runCli(['inspect', 'absent.onnx', '--json'], { wrapper: unread })).code, 3);
    const full = await runCli(['recipes', '--json'], { wrapper: ['bash', '-c', '"$@" > /dev/full', 'full'] });
    assert.equal(full.code, 3);
    assert.match(full.stderr, /^stdout: the disk is full/);
  });
});
