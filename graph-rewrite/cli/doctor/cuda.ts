import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import type { Check } from './check.js';
import { runtimeFolder } from './runtime.js';

/**
 * The four things a CUDA session needs, told apart: driver, toolkit (to build), ONNX Runtime's provider, our kernels.
 * @param built what the operator library says of itself
 */
export function checkCuda(built: { built: boolean; archs: readonly unknown[] } | undefined): Check[] {
  return [driver(), toolkit(), provider(), kernels(built)];
}

function driver(): Check {
  const name = 'CUDA driver';
  const proc = '/proc/driver/nvidia/version';
  const query = spawnSync('nvidia-smi', ['--query-gpu=name,driver_version,compute_cap', '--format=csv,noheader'], {
    encoding: 'utf8',
    timeout: 10_000,
  });
  if (query.status === 0) return { name, status: 'ok', found: query.stdout.trim().split('\n').join('; ') };
  if (existsSync(proc)) {
    const version = /Kernel Module[^\d]*([\d.]+)/.exec(readFileSync(proc, 'utf8'))?.[1] ?? 'version unknown';
    return {
      name,
      status: 'absent',
      found: `kernel module ${version}, but nvidia-smi does not answer`,
      fix: 'Reinstall the driver, or restart.',
    };
  }
  return {
    name,
    status: 'absent',
    found: 'no NVIDIA driver',
    fix: 'Only for GPU sessions: install the driver of your GPU.',
  };
}

function toolkit(): Check {
  const name = 'CUDA toolkit';
  const candidates = ['nvcc', '/usr/local/cuda/bin/nvcc'];
  for (const nvcc of candidates) {
    const release = /release ([\d.]+)/.exec(
      spawnSync(nvcc, ['--version'], { encoding: 'utf8', timeout: 10_000 }).stdout ?? '',
    )?.[1];
    if (release) return { name, status: 'ok', found: `${release} (${nvcc})` };
  }
  return {
    name,
    status: 'absent',
    found: 'no nvcc on PATH or in /usr/local/cuda',
    fix: 'Only to build GPU kernels: install CUDA 12.4 or newer.',
  };
}

function provider(): Check {
  const name = 'CUDA provider';
  const folder = runtimeFolder()?.folder;
  const file =
    folder && existsSync(folder) ? readdirSync(folder).find((each) => each.includes('providers_cuda')) : undefined;
  return folder && file
    ? { name, status: 'ok', found: join(folder, file) }
    : {
        name,
        status: 'absent',
        found: 'onnxruntime-node has no CUDA provider here',
        fix: 'Only for GPU sessions: reinstall onnxruntime-node with ONNXRUNTIME_NODE_INSTALL=cuda12.',
      };
}

function kernels(built: { built: boolean; archs: readonly unknown[] } | undefined): Check {
  const name = 'CUDA kernels';
  if (built?.built) return { name, status: 'ok', found: `built for ${built.archs.join(', ')}` };
  return { name, status: 'absent', found: 'the operator library has CPU kernels only' };
}
