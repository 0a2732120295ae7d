/**
 * Every environment variable the package reads. `rewrite doctor` prints them.
 */
export interface EnvironmentVariable {
  readonly name: string;
  readonly about: string;
}

export const environmentVariables = [
  { name: 'ORT_LOWBIT_RUNTIME', about: "path of a libonnxruntime to load instead of onnxruntime-node's own" },
  { name: 'ORT_LOWBIT_NATIVE_DIR', about: 'folder of ort_lowbit_host.node and libort_lowbit.so' },
  { name: 'ORT_LOWBIT_FORCE_KERNEL', about: 'kernel names, comma separated, that the operators must use; read once' },
] as const satisfies readonly EnvironmentVariable[];

/** The value of one of our variables; undefined when unset or empty. */
export function readEnvironment(name: (typeof environmentVariables)[number]['name']): string | undefined {
  return process.env[name] || undefined;
}
