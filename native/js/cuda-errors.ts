/**
 * Why a CUDA session cannot be made: driver, provider, CUDA runtime or architecture, each with what to do about it.
 */
import type { CudaFacts } from './addon.js';

export interface CudaSituation {
  /** What ONNX Runtime said. */
  readonly message: string;
  readonly facts: CudaFacts;
  /** Files of the provider that should lie beside the runtime but do not. */
  readonly missingProviderFiles: readonly string[];
  readonly deviceId: number;
}

/** The files that ONNX Runtime loads for its CUDA provider, from the folder of libonnxruntime. */
export const cudaProviderFiles = ['libonnxruntime_providers_shared.so', 'libonnxruntime_providers_cuda.so'] as const;

/**
 * Every cause that can be told, most basic first, as full sentences; empty when nothing speaks for CUDA as the cause.
 */
export function cudaCauses({ message, facts, missingProviderFiles, deviceId }: CudaSituation): string[] {
  const causes: string[] = [];
  if (facts.error) {
    const fix = facts.driverFound ? 'Update or restart the NVIDIA driver (nvidia-smi).' : 'Install the NVIDIA driver.';
    causes.push(`driver: ${facts.error}. ${fix}`);
  } else if (deviceId >= facts.devices.length) {
    causes.push(
      `device: no device ${deviceId}, expected 0 … ${facts.devices.length - 1} (${facts.devices.map((d) => d.name).join(', ')}).`,
    );
  }
  if (missingProviderFiles.length > 0) {
    causes.push(
      `provider: ${missingProviderFiles.join(' and ')} not found, expected ONNX Runtime's CUDA provider beside its library. ` +
        'Reinstall onnxruntime-node with ONNXRUNTIME_NODE_INSTALL=cuda12, or copy the files there.',
    );
  }
  const library =
    /(lib(?:cudart|cublasLt|cublas|cudnn|curand|cufft|cusparse|cusolver|nvrtc|nvJitLink)[\w.-]*\.so[\d.]*)\s*:/.exec(
      message,
    )?.[1];
  if (library) {
    causes.push(
      `runtime: ${library} not found, expected the CUDA libraries of the provider. ` +
        'Install that CUDA version (and cuDNN) or add its folder to LD_LIBRARY_PATH.',
    );
  }
  if (/driver version is insufficient/i.test(message)) {
    causes.push(
      `driver: too old for the provider's CUDA runtime (it supports CUDA ${versionOf(facts.driverVersion)}). Update the NVIDIA driver.`,
    );
  }
  if (/no kernel image is available|cudaErrorNoKernelImageForDevice|device kernel image is invalid/i.test(message)) {
    const device = facts.devices[deviceId];
    causes.push(
      `architecture: no code for ${device ? `${device.name} (compute capability ${device.capability})` : 'this device'} ` +
        'in the provider or in our operators. `rewrite doctor` lists the architectures.',
    );
  }
  if (/out of memory|Failed to allocate memory/i.test(message)) {
    causes.push('memory: the device has too little free memory. Free some, or set gpuMemLimit and a smaller batch.');
  }
  return causes;
}

/** CUDA's version number in words: 13000 is "13.0". */
export function versionOf(number: number): string {
  return number > 0 ? `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}` : 'unknown';
}
