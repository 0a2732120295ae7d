#!/usr/bin/env bash
# Compiles the CUDA kernels, their checks, the benchmark's library and the operator library for one architecture, without
# CMake or npm: for a GPU machine that has nvcc and cores but no registry. About 20 s on 16 cores.
# usage: gpu-build.sh OUT ORT_HEADERS [90a]
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
headers=$(cd "$2" && pwd)
arch=${3:-90a}
cd "$(dirname "$0")/.."
cuda=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
export out headers arch cuda

compile() {
  local source=$1 object flags=
  object=$out/${source//\//_}.o
  case $source in
    *.cu)
      nvcc -std=c++17 -O3 -I. --expt-relaxed-constexpr -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off \
        -gencode=arch=compute_"$arch",code=sm_"$arch" -c "$source" -o "$object"
      return ;;
    *avx512vnni*) flags='-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c' ;;
    *avx512bf16*) flags='-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx2 -mfma -mf16c' ;;
    *avx512*) flags='-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c' ;;
    *avx2*) flags='-mavx2 -mfma -mf16c' ;;
  esac
  # shellcheck disable=SC2086
  g++ -std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off $flags -DLOWBIT_CUDA=1 -DLOWBIT_CUDA_ARCHS="\"$arch\"" \
    -DLOWBIT_VERSION="\"$(sed -n 's/.*"version": "\(.*\)".*/\1/p' package.json)\"" -I. -isystem "$headers" \
    -isystem "$cuda/include" -c "$source" -o "$object"
}
export -f compile

# CUDA sources first: they take longest.
ls ops/*/cuda/*.cu test/gpu/*.cu bench/gpu/*.cu ops/*/cuda/*.cc native/core/*.cc native/oplib/*.cc ops/register.cc ops/*/*.cc \
  ops/*/cpu/*.cc test/gpu/main.cc | xargs -P "$(nproc)" -I{} bash -c 'compile {}'
kernels=$(ls "$out"/ops_*_cuda_*.cu.o "$out"/ops_*_cuda_choose.cc.o)
# shellcheck disable=SC2086
nvcc -o "$out/gpu_test" "$out"/test_gpu_*.o $kernels
# shellcheck disable=SC2086
nvcc -shared -o "$out/libgpu_bench.so" "$out"/bench_gpu_*.o $kernels
g++ -shared -o "$out/libort_lowbit.so" "$out"/native_*.o "$out"/ops_*.o -Wl,--version-script=native/oplib/exports.map \
  -Wl,-Bsymbolic -static-libgcc -static-libstdc++ -L"$cuda/lib64" -L"$cuda/lib" -lcudart_static -lpthread -ldl -lrt
