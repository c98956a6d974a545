#!/bin/bash
# Check and measure lrbench on a GPU in at most eight minutes: gpu_suite.sh [FOLDER]
#
# Every step has a time limit and writes FOLDER/STEP.log (default: ./gpu-suite); a failed step does not stop the others. A table
# of steps, and the figures of each, come last. Run it in an environment in which lrbench is installed, from any folder.
# Afterwards, `lrbench run standard` measures the suite itself.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
out=$(mkdir -p "${1:-gpu-suite}" && cd "${1:-gpu-suite}" && pwd)
python=${PYTHON:-python}
table=$out/table.txt
printf '%-12s %6s %8s\n' step status seconds > "$table"

# step NAME LIMIT COMMAND…: run a command from the repository's root, for at most LIMIT seconds.
step() {
    local name=$1 limit=$2 started=$SECONDS status
    shift 2
    (cd "$here" && timeout --kill-after=10 "$limit" "$@") > "$out/$name.log" 2>&1
    status=$?
    printf '%-12s %6s %8s\n' "$name" "$status" "$((SECONDS - started))" | tee -a "$table"
}

export LRBENCH_HOME=$out/home
mkdir -p "$LRBENCH_HOME"
step doctor 20 "$python" -m lrbench doctor
LRBENCH_TEST_GPU=1 step tests 75 "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py
step feeding 45 "$python" benchmark/speed/feeding_scaling.py
step resnet18 60 "$python" benchmark/speed/step_profile.py resnet18
step resnet50 90 "$python" benchmark/speed/step_profile.py resnet50
step loaders 75 "$python" -m pytest -q -p no:cacheprovider benchmark/speed/test_pretraining_speed.py -k epoch
step transfer 50 "$python" -m pytest -q -p no:cacheprovider benchmark/speed/test_transfer_speed.py
LRBENCH_CUDA_GRAPHS=1 step graphs 35 "$python" -m pytest -q -p no:cacheprovider benchmark/speed/test_transfer_speed.py -k finetuning
step probe 30 "$python" benchmark/speed/probe_path.py alone

echo
for log in "$out"/*.log; do
    echo "== $(basename "$log" .log)"
    tail -n 25 "$log"
done
echo
cat "$table"
! awk 'NR > 1 && $2 != 0' "$table" | grep -q .
