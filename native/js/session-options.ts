/**
 * InferenceSession options: checked here by name, type and range, then handed to native code as plain data.
 */
import type { InferenceSession as OrtSession } from 'onnxruntime-common';
import type { NativeRunOptions, NativeSessionOptions } from './addon.js';
import {
  checkBoolean,
  checkInteger,
  checkNames,
  checkObject,
  checkOneOf,
  checkString,
  flattenEntries,
  optionError,
} from './check-option.js';
import { readExternalData } from './external-data.js';
import { type CpuProviderOptions, type CudaProviderOptions, readProviders } from './providers.js';

/** onnxruntime-node's session options; the providers here are 'cpu' and 'cuda'. */
export interface SessionOptions extends Omit<
  OrtSession.SessionOptions,
  'executionProviders' | 'preferredOutputLocation'
> {
  executionProviders?: readonly (
    'cpu' | 'cuda' | CpuProviderOptions | CudaProviderOptions | OrtSession.ExecutionProviderConfig
  )[];
  /** Where outputs go: 'cpu' (default), or 'gpu-buffer' to stay on the CUDA device; for all, or by output name. */
  preferredOutputLocation?: OrtSession.SessionOptions['preferredOutputLocation'];
}

/** onnxruntime-node's run options, a way to stop a run, and where its outputs go. */
export interface RunOptions extends OrtSession.RunOptions {
  /** Where all outputs of this run go, instead of what the session's preferredOutputLocation says. */
  outputLocation?: 'cpu' | 'gpu-buffer';
  /** When it aborts, the run ends at its next node and its promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

const levels = { disabled: 0, basic: 1, extended: 2, layout: 3, all: 99 } as const;
const modes = { sequential: 0, parallel: 1 } as const;
const locations = ['cpu', 'gpu-buffer'] as const;

const sessionNames = [
  'executionProviders',
  'intraOpNumThreads',
  'interOpNumThreads',
  'freeDimensionOverrides',
  'graphOptimizationLevel',
  'enableCpuMemArena',
  'enableMemPattern',
  'executionMode',
  'optimizedModelFilePath',
  'enableProfiling',
  'profileFilePrefix',
  'logId',
  'logSeverityLevel',
  'logVerbosityLevel',
  'preferredOutputLocation',
  'enableGraphCapture',
  'externalData',
  'extra',
];

type Location = (typeof locations)[number];

export interface ReadOptions {
  readonly native: NativeSessionOptions;
  /** Where a given output goes. */
  readonly locationOf: (outputName: string) => Location;
  /** Output names that the location option mentions, to be checked against the model. */
  readonly locatedNames: readonly string[];
}

/**
 * Checks session options and reads the external data they name.
 * @param modelIsPath external files named only by a path are then found beside the model by ONNX Runtime itself
 * @throws TypeError naming the option's full path, its value and the legal values
 */
export async function readSessionOptions(options: unknown, modelIsPath: boolean): Promise<ReadOptions> {
  const path = 'options';
  const given = checkObject(options, path);
  checkNames(given, path, sessionNames);
  const at = (name: string) => `${path}.${name}`;
  const when = <T>(name: string, use: (value: unknown, where: string) => T) => {
    if (given[name] !== undefined) use(given[name], at(name));
  };
  const native: NativeSessionOptions = { freeDimensionOverrides: [], config: [], externalData: [] };
  when('enableCpuMemArena', (v, w) => (native.enableCpuMemArena = checkBoolean(v, w)));
  when('executionProviders', (v, w) => Object.assign(native, readProviders(v, w)));
  when('intraOpNumThreads', (v, w) => (native.intraOpNumThreads = checkInteger(v, w, 0, 65535)));
  when('interOpNumThreads', (v, w) => (native.interOpNumThreads = checkInteger(v, w, 0, 65535)));
  when('graphOptimizationLevel', (v, w) => (native.graphOptimizationLevel = levels[checkOneOf(v, w, keysOf(levels))]));
  when('executionMode', (v, w) => (native.executionMode = modes[checkOneOf(v, w, keysOf(modes))]));
  when('enableMemPattern', (v, w) => (native.enableMemPattern = checkBoolean(v, w)));
  when('optimizedModelFilePath', (v, w) => (native.optimizedModelFilePath = checkString(v, w)));
  when('logId', (v, w) => (native.logId = checkString(v, w)));
  when('logSeverityLevel', (v, w) => (native.logSeverityLevel = checkInteger(v, w, 0, 4)));
  when('logVerbosityLevel', (v, w) => (native.logVerbosityLevel = checkInteger(v, w, 0, 65535)));
  when('profileFilePrefix', checkString);
  when('enableProfiling', (v, w) => {
    if (checkBoolean(v, w)) native.profileFilePrefix = (given.profileFilePrefix as string) ?? 'onnxruntime_profile_';
  });
  when('extra', (v, w) => (native.config = flattenEntries(v, w)));
  when('freeDimensionOverrides', (v, w) => {
    native.freeDimensionOverrides = Object.entries(checkObject(v, w)).map(([name, size]) => {
      return [name, String(checkInteger(size, `${w}.${name}`, 0))] as const;
    });
  });
  when('enableGraphCapture', (v, w) => {
    if (!checkBoolean(v, w)) return;
    if (!native.cuda) throw optionError(w, v, "false without the 'cuda' execution provider");
    native.cuda = [...native.cuda.filter(([key]) => key !== 'enable_cuda_graph'), ['enable_cuda_graph', '1']];
  });
  const place = readLocations(given.preferredOutputLocation, at('preferredOutputLocation'), native.cuda !== undefined);
  if (given.externalData !== undefined) {
    native.externalData = await readExternalData(given.externalData, at('externalData'), modelIsPath);
  }
  return { native, ...place };
}

function checkLocation(location: unknown, where: string, hasDevice: boolean): Location {
  const checked = checkOneOf(location, where, locations);
  if (checked === 'gpu-buffer' && !hasDevice) {
    throw optionError(where, location, "'cpu'", "'gpu-buffer' needs 'cuda' in options.executionProviders.");
  }
  return checked;
}

function readLocations(value: unknown, path: string, hasDevice: boolean): Omit<ReadOptions, 'native'> {
  const check = (location: unknown, where: string) => checkLocation(location, where, hasDevice);
  if (value === undefined) return { locationOf: () => 'cpu', locatedNames: [] };
  if (typeof value === 'string') {
    const everywhere = check(value, path);
    return { locationOf: () => everywhere, locatedNames: [] };
  }
  const byName = new Map(
    Object.entries(checkObject(value, path)).map(([name, location]) => [name, check(location, `${path}.${name}`)]),
  );
  return { locationOf: (name) => byName.get(name) ?? 'cpu', locatedNames: [...byName.keys()] };
}

/**
 * Checks run options.
 * @throws TypeError naming the option
 */
export function readRunOptions(
  options: unknown,
  hasDevice: boolean,
): { native: NativeRunOptions; signal?: AbortSignal; location?: Location } {
  const path = 'runOptions';
  const given = checkObject(options, path);
  checkNames(given, path, [
    'logSeverityLevel',
    'logVerbosityLevel',
    'terminate',
    'tag',
    'extra',
    'signal',
    'outputLocation',
  ]);
  const native: NativeRunOptions = { config: [] };
  if (given.logSeverityLevel !== undefined) {
    native.logSeverityLevel = checkInteger(given.logSeverityLevel, `${path}.logSeverityLevel`, 0, 4);
  }
  if (given.logVerbosityLevel !== undefined) {
    native.logVerbosityLevel = checkInteger(given.logVerbosityLevel, `${path}.logVerbosityLevel`, 0, 65535);
  }
  if (given.terminate !== undefined) native.terminate = checkBoolean(given.terminate, `${path}.terminate`);
  if (given.tag !== undefined) native.tag = checkString(given.tag, `${path}.tag`);
  if (given.extra !== undefined) native.config = flattenEntries(given.extra, `${path}.extra`);
  const { signal, outputLocation: location } = given;
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw optionError(`${path}.signal`, signal, 'an AbortSignal');
  return {
    native,
    ...(signal ? { signal } : {}),
    ...(location === undefined ? {} : { location: checkLocation(location, `${path}.outputLocation`, hasDevice) }),
  };
}

function keysOf<T extends object>(table: T): (keyof T & string)[] {
  return Object.keys(table) as (keyof T & string)[];
}
