/** The activation functions in binary32, one rounding an operation, in the order `ops/formats/README.md` writes them. */

const f = Math.fround;

export const activationNames = ['silu', 'gelu', 'gelu_tanh', 'relu'] as const;
export type Activation = (typeof activationNames)[number];

const log2e = f(1.44269502);
const ln2High = f(0.693359375);
const ln2Low = f(-2.1219444e-4);
const expCoefficients = [1 / 120, 1 / 24, 1 / 6, 1 / 2, 1, 1].map(f);

/** e^x with the README's reduction and polynomial; 0 for x ≤ -86, e^88 for x ≥ 88. */
export function exp(x: number): number {
  if (Number.isNaN(x)) return x;
  if (x <= -86) return 0;
  const bounded = Math.min(x, 88);
  const scaled = f(bounded * log2e);
  const n = scaled + 1.5 * 2 ** 52 - 1.5 * 2 ** 52; // half to even
  const r = f(f(bounded - f(n * ln2High)) - f(n * ln2Low));
  let p = f(1 / 720);
  for (const c of expCoefficients) p = f(f(p * r) + c);
  return p * 2 ** n; // exact: the result is normal
}

function sigmoidTimes(x: number, exponent: number): number {
  return f(x / f(1 + exp(-exponent)));
}

const geluRoot = f(0.7978845608);
const geluCubic = f(0.044715);

function geluTanh(x: number): number {
  const cube = f(f(x * x) * x);
  const u = f(geluRoot * f(x + f(geluCubic * cube)));
  return sigmoidTimes(x, f(u + u));
}

const halfRoot = f(0.707106781);
const erfP = f(0.3275911);
const erfCoefficients = [-1.453152027, 1.421413741, -0.284496736, 0.254829592].map(f);

function gelu(x: number): number {
  const z = f(Math.abs(x) * halfRoot);
  const t = f(1 / f(1 + f(erfP * z)));
  let e = f(1.061405429);
  for (const c of erfCoefficients) e = f(f(e * t) + c);
  e = f(f(e * t) * exp(-f(z * z)));
  const half = f(0.5 * e);
  return f(x * (x < 0 ? half : f(1 - half)));
}

/** Applies one activation function to one binary32 value. */
export function activate(name: Activation, x: number): number {
  switch (name) {
    case 'silu':
      return sigmoidTimes(x, x);
    case 'gelu':
      return gelu(x);
    case 'gelu_tanh':
      return geluTanh(x);
    case 'relu':
      return x > 0 || Number.isNaN(x) ? x : 0;
    default:
      return name satisfies never;
  }
}
