import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { Check } from './check.js';

const require = createRequire(import.meta.url);
const oldestNode = [20, 19] as const;
const oldestRuntime = [1, 24] as const;

export function checkNode(): Check {
  const found = `${process.versions.node} (${process.platform} ${process.arch})`;
  return atLeast(process.versions.node, oldestNode)
    ? { name: 'Node.js', status: 'ok', found }
    : {
        name: 'Node.js',
        status: 'missing',
        found: `${found}, expected 20.19 or newer`,
        fix: 'Install Node 20.19 or newer.',
      };
}

/** The folder with ONNX Runtime's shared libraries inside onnxruntime-node, if that is installed. */
export function runtimeFolder(): { folder: string; version: string } | undefined {
  try {
    const manifest = require.resolve('onnxruntime-node/package.json');
    const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };
    return { folder: join(dirname(manifest), 'bin', 'napi-v6', process.platform, process.arch), version };
  } catch {
    return undefined;
  }
}

/** ONNX Runtime as onnxruntime-node brings it. */
export function checkOnnxRuntime(): Check[] {
  const name = 'ONNX Runtime';
  const runtime = runtimeFolder();
  if (!runtime) {
    return [
      {
        name,
        status: 'missing',
        found: 'onnxruntime-node is not installed',
        fix: 'npm install onnxruntime-node@1.29.0',
      },
    ];
  }
  const { folder, version } = runtime;
  if (!atLeast(version, oldestRuntime)) {
    return [
      {
        name,
        status: 'missing',
        found: `${version}, expected 1.24 or newer`,
        fix: 'npm install onnxruntime-node@1.29.0',
      },
    ];
  }
  const library = existsSync(folder)
    ? readdirSync(folder).find((file) => /^(lib)?onnxruntime\.(so|dylib|dll|\d)/.test(file))
    : undefined;
  return library
    ? [{ name, status: 'ok', found: `${version} (${join(folder, library)})` }]
    : [
        {
          name,
          status: 'missing',
          found: `${version}, but no shared library in ${folder}`,
          fix: 'Reinstall it: npm rebuild onnxruntime-node',
        },
      ];
}

function atLeast(version: string, [major, minor]: readonly [number, number]): boolean {
  const [haveMajor = 0, haveMinor = 0] = version.split('.').map(Number);
  return haveMajor > major || (haveMajor === major && haveMinor >= minor);
}
