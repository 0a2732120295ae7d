#!/usr/bin/env bash
# Whole models and ONNX Runtime's own operators beside ours, on a machine with a GPU, through the Node host.
# usage: gpu-models.sh prepare WORK            writes models of 7B shape, rewritten, into WORK (half a minute on 16 cores)
#        gpu-models.sh prepare-trained WORK    rewrites bookworm-11m by every row of the accuracy table, with GPTQ
#        gpu-models.sh run WORK OUT JOB…       runs jobs, each with its time limit; logs to OUT/log, results to OUT/*.json
#        gpu-models.sh list                    names the jobs
# NODE names Node.js (default: node). TARGET= (empty) keeps 4-bit activations in the form that all chips read. SMALL=1 takes tiny shapes and the CPU provider, to try all of it without a GPU.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
node=${NODE:-node}
small=${SMALL:+--small}
cpu=${SMALL:+--provider cpu}
provider=${SMALL:+cpu}
provider=${provider:-cuda}
target=${TARGET-sm90}
four_bit=atom-w4a4${target:+@$target}
powers=weight.scaleConstraint=m2
in_place=atom-w4a4kv4${target:+@$target},kv.form=in_place
in_place_post=$in_place,kv.rope=post
# Recipes of the layer stack and of the whole model (with settings).
stacks="float16 $four_bit $four_bit,$powers w8a8 w4a16 zeroquant-fp-w4a8"
wholes="float16 $four_bit $four_bit,$powers $in_place $in_place_post $in_place,$powers"
jobs_known="host stack stack-threads stack-graph attention gemm whole generate limit perplexity pieces profile"

# The file that write-stack gives a recipe.
file_of() { echo "$1" | sed 's/[^[:alnum:]_.-]/_/g'; }

prepare() {
  local work=$1 layers=8 deep=32
  [ -n "$small" ] && layers=2 deep=3
  mkdir -p "$work/stack" "$work/trained"
  # shellcheck disable=SC2086
  {
    for name in $stacks; do echo "$node $root/dist/bench/gpu/write-stack.js $work/stack $layers $small $name"; done
    for name in $wholes; do echo "$node $root/dist/bench/gpu/write-stack.js $work/stack $deep $small $name"; done
  } | sort -u | xargs -P 8 -I{} sh -c '{} 2>&1' | tee "$work/prepare.log"
  touch "$work/stacks-ready"
}

# Needs ONNX Runtime and the addon: recipes with GPTQ run the float model.
prepare_trained() {
  local work=$1 ladder=$root/dist/test/gpu/ladder.js
  "$node" "$ladder" floats "$work/trained"
  "$node" "$ladder" list | xargs -P "${TRAINED_JOBS:-8}" -I{} sh -c "$node $ladder write $work/trained {} 2>&1" | tee "$work/trained.log"
  touch "$work/trained-ready"
}

job() { # NAME WORK OUT
  local name=$1 work=$2 out=$3 b=$root/dist/bench/gpu layers=8 deep=32
  local prefill="prefill:1x2048" decode="decode:1x1024 decode:16x1024 decode:64x1024" batches="decode:1x1024 decode:16x1024 decode:64x1024 decode:128x1024"
  local most_float=largest:19x1024 most=largest:146x1024 texts="1x512 16x512 64x512"
  [ -n "$small" ] && layers=2 deep=3 prefill=prefill:1x32 decode="decode:1x16 decode:3x16" batches="decode:1x16 decode:2x16" &&
    most_float=largest:2x16 most=largest:3x16 texts='1x20 3x20'
  # shellcheck disable=SC2086
  case $name in
    host) timeout 120 "$node" "$root/dist/test/gpu/host.js" $cpu ;;
    stack) for m in $stacks; do stack "$work" "$out" "$m" "$layers" stack 40 $prefill $decode; done ;;
    stack-threads) for m in float16 "$four_bit"; do stack "$work" "$out" "$m" "$layers" threads 40 --threads 1 ${decode%% *}; done ;;
    stack-graph) for m in $stacks; do stack "$work" "$out" "$m" "$layers" graph 40 --graph $decode; done ;;
    attention) timeout 120 "$node" "$b/attention-in-ort.js" "$out/attention.json" $cpu $small --seconds "${SECONDS_EACH:-60}" ;;
    gemm) timeout 180 "$node" "$b/gemm-in-ort.js" "$work/gemm" "$out/gemm.json" $cpu $small --seconds "${SECONDS_EACH:-90}" ;;
    whole) for m in $wholes; do stack "$work" "$out" "$m" "$deep" whole 90 --graph $batches; done ;;
    generate)
      for m in float16 "$in_place"; do
        timeout 100 "$node" "$b/generate.js" "$work/stack/$(file_of "$m")-$deep.onnx" "$out/generate-$(file_of "$m").json" $cpu $texts
      done ;;
    limit)
      stack "$work" "$out" float16 "$deep" limit 60 --graph --limit 24000000000 $most_float
      for m in "$in_place" "$in_place_post"; do stack "$work" "$out" "$m" "$deep" limit 60 --graph --limit 24000000000 $most; done ;;
    perplexity)
      ls "$work"/trained/*_*.onnx | timeout 240 xargs -P "${PERPLEXITY_JOBS:-16}" -n 1 \
        "$node" "$root/dist/test/gpu/provider.js" "$root/models/bookworm-11m/eval-tokens.npy" "${WINDOWS:-100}" "${CPU_WINDOWS:-100}" ;;
    pieces) timeout 120 "$node" "$root/dist/test/gpu/pieces.js" "$provider" "$root/models/bookworm-11m/eval-tokens.npy" "${WINDOWS:-100}" "$work"/trained/*kv4.onnx ;;
    profile)
      for m in float16 "$four_bit" w8a8; do
        for case in $prefill decode:16x1024; do profile "$work" "$m" "$layers" "$case"; done
      done
      profile "$work" "$in_place" "$deep" prefill:1x512 ;;
    *) echo "gpu-models: job '$name' is not known, expected one of: $jobs_known" >&2; return 2 ;;
  esac
}

# stack WORK OUT MODEL LAYERS KIND SECONDS ARGUMENT…
stack() {
  local work=$1 out=$2 model=$3 layers=$4 kind=$5 seconds=$6 file
  shift 6
  file=$(file_of "$model")-$layers
  # shellcheck disable=SC2086
  timeout "$seconds" "$node" "$root/dist/bench/gpu/stack.js" "$work/stack/$file.onnx" "$out/$kind-$file.json" $cpu "$@"
}

# profile WORK MODEL LAYERS CASE: kernels of a cold run, microseconds in all, calls, names
profile() {
  echo "$2 $4"
  timeout 60 ncu --metrics gpu__time_duration.sum --csv --launch-count 150 --target-processes all "$node" "$root/dist/bench/gpu/stack.js" \
    "$1/stack/$(file_of "$2")-$3.onnx" /dev/null --runs 1 "$4" | python3 "$root/scripts/kernel-times.py" 14
}

run() {
  local work=$1 out=$2
  shift 2
  mkdir -p "$out"
  for name in "$@"; do
    local begin=$SECONDS status
    echo "=== $name"
    job "$name" "$work" "$out" 2>&1
    status=$?
    echo "=== $name: $((SECONDS - begin)) s, exit $status"
  done | tee -a "$out/log"
}

case ${1:-} in
  prepare) prepare "$2" ;;
  prepare-trained) prepare_trained "$2" ;;
  run) shift; run "$@" ;;
  list) echo "$jobs_known" ;;
  *) sed -n '2,8p' "$0"; exit 2 ;;
esac
