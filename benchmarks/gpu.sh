#!/usr/bin/env bash
# Ten minutes on a GPU, prepared so that nothing has to be thought of there:
#
#   numerics      half precision beside full on the embedded model; tests that run on whatever device there is
#   three shapes  sampling, an RLOO and a PPO iteration, a reward step, as shares of the roofline, beside TRL and vLLM
#                 where their environments are there or can be made; then decoding with and without a captured graph
#
#   benchmarks/gpu.sh [--device cuda|cpu] [--tiny] [--out DIR]
#
# Every part has a time limit and none ends another; what did not run is said in DIR/summary.md (DIR: $OUT, or runs/gpu).
# `--device cpu --tiny` runs all of it on a processor, without peers, to see that it works. $PYTHON runs Palate.
set -uo pipefail
cd "$(dirname "$0")/.."

device=cuda tiny=no out=${OUT:-runs/gpu}
while (($#)); do
    case $1 in
        --device) device=${2-}; shift ;;
        --tiny) tiny=yes ;;
        --out) out=${2-}; shift ;;
        *) echo "$0: $1? It takes --device cuda|cpu, --tiny and --out DIR" >&2; exit 2 ;;
    esac
    shift
done
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH} CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONUNBUFFERED=1
if [[ $device == cpu ]]; then
    export CUDA_VISIBLE_DEVICES=
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no GPU that torch can use here, so nothing ran; --device cpu --tiny tries the script itself" >&2
    exit 1
fi

mkdir -p "$out"
scratch=$(mktemp -d)  # models of gigabytes, which nobody wants back
trap 'rm -rf "$scratch"' EXIT
deadline=$((SECONDS + 590)) failures=0
: >"$out/log.txt"
printf '| part | what became of it |\n|---|---|\n' >"$out/summary.md"

tell() { # NAME WHAT
    printf '| %s | %s |\n' "$1" "$2" >>"$out/summary.md"
    echo "$1: $2"
}

part() { # NAME LIMIT COMMAND...
    local name=$1 limit=$2 left=$((deadline - SECONDS)) began=$SECONDS status=0
    shift 2
    limit=$((limit < left ? limit : left))
    if ((limit < 10)); then
        tell "$name" "left out: the ten minutes are over"
        failures=$((failures + 1))
        return 1
    fi
    printf '\n== %s: %s\n' "$name" "$*" >>"$out/log.txt"
    timeout -k 5 "$limit" "$@" >>"$out/log.txt" 2>&1 || status=$?
    case $status in
        0) tell "$name" "done in $((SECONDS - began)) s" ;;
        124 | 137) tell "$name" "stopped after $limit s" ;;
        *) tell "$name" "FAILED with status $status: see log.txt" ;;
    esac
    ((status == 0)) || failures=$((failures + 1))
    return "$status"
}

small=() tests=(tests/rollout/test_local.py tests/rollout/test_devices.py tests/stages/test_half_precision.py)
models=(smollm2-135m llama-3.2-1b qwen3-0.6b) bench=(--rounds 2) rows=short beside=()
if [[ $tiny == yes ]]; then
    small=(--model tiny --prompts 2 --responses 2 --max-new-tokens 8 --frozen-layers 1 --microbatch-tokens 64)
    tests=(tests/rollout/test_devices.py)
    models=(smallest) bench=(--rounds 1 --tiny) rows=tiny
fi

part "half precision" 100 "$python" benchmarks/half_precision.py "${small[@]}"
part "tests" 100 "$python" -m pytest -q -p no:cacheprovider -W ignore::UserWarning "${tests[@]}"

if [[ $tiny == yes ]]; then
    tell "TRL, vLLM" "left out: --tiny has no peers"
else
    for peer in trl vllm; do
        if part "environment of $peer" 90 "$python" benchmarks/bench.py --install --beside "$peer" --device "$device"; then
            beside+=("$peer")
        else
            tell "beside $peer" "MISSING: no environment; \`bench.py --install --beside $peer\` makes it beforehand"
        fi
    done
fi

for model in "${models[@]}"; do
    part "$model: benchmark" 200 "$python" benchmarks/bench.py --device "$device" --model "$model" "${bench[@]}" \
        --only sampling rloo ppo reward-2 --beside "${beside[@]}" --out "$scratch/$model"
    for suffix in md json; do # also of a benchmark that was stopped: it writes line by line
        [[ -e $scratch/$model/report.$suffix ]] && cp "$scratch/$model/report.$suffix" "$out/$model.$suffix"
    done
    tail -n 20 "$scratch/$model"/*.log >>"$out/log.txt" 2>&1
    part "$model: captured decoding" 60 "$python" benchmarks/graphs.py "$scratch/$model/work" --rows "$rows"
    rm -rf "${scratch:?}/$model"
done

for model in "${models[@]}"; do
    [[ -e $out/$model.md ]] && printf '\n' && cat "$out/$model.md"
done
printf '\n' && cat "$out/summary.md"
((failures == 0))
