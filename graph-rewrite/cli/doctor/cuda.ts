import { existsSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { cudaProviderFiles } from '../../../native/js/cuda-errors.js';
import type { NativeInfo } from '../../../native/js/index.js';
import { formatBytes } from '../ui/format.js';
import type { Check } from './check.js';
import { runtimeFolder } from './runtime.js';

/**
 * The four things a CUDA session needs, told apart: driver and device, toolkit (to build), ONNX Runtime's provider, our kernels.
 * @param info what the native parts found; without it only files are looked for
 */
export function checkCuda(info: NativeInfo | undefined): Check[] {
  return [driver(info), toolkit(), provider(info), kernels(info)];
}

function driver(info: NativeInfo | undefined): Check {
  const name = 'CUDA driver';
  const fix = 'Only for GPU sessions: install the driver of your GPU.';
  if (!info) {
    const found = existsSync('/proc/driver/nvidia/version') ? 'a kernel module, not asked further' : 'no NVIDIA driver';
    return { name, status: 'absent', found };
  }
  const { driverFound, error, driverVersion, devices } = info.cuda;
  if (!driverFound) return { name, status: 'absent', found: 'no NVIDIA driver', fix };
  if (error !== '') return { name, status: 'absent', found: `found, but unusable: ${error}`, fix };
  const gpus = devices.map(
    ({ name: gpu, capability, memoryBytes }) =>
      `${gpu} (sm_${capability.replace('.', '')}, ${formatBytes(memoryBytes)})`,
  );
  return {
    name,
    status: 'ok',
    found: `CUDA ${Math.floor(driverVersion / 1000)}.${(driverVersion % 1000) / 10}; ${gpus.join(', ')}`,
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

function provider(info: NativeInfo | undefined): Check {
  const name = 'CUDA provider';
  const folder = info ? dirname(info.runtime.path) : runtimeFolder()?.folder;
  const missing = cudaProviderFiles.filter((file) => folder === undefined || !existsSync(join(folder, file)));
  if (missing.length === 0) return { name, status: 'ok', found: join(folder!, cudaProviderFiles[1]) };
  const fix = 'Only for GPU sessions: reinstall onnxruntime-node with ONNXRUNTIME_NODE_INSTALL=cuda12.';
  return { name, status: 'absent', found: `ONNX Runtime lacks ${missing.join(' and ')} here`, fix };
}

function kernels(info: NativeInfo | undefined): Check {
  const name = 'CUDA kernels';
  const built = info?.operatorLibrary.description.cuda;
  if (built?.built) return { name, status: 'ok', found: `built for ${built.archs.join(', ')}` };
  const fix = 'Only for GPU sessions, with the CUDA toolkit: npm run build:native -- --CDLOWBIT_CUDA=ON';
  return { name, status: 'absent', found: 'the operator library has CPU kernels only', fix };
}
