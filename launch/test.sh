#!/usr/bin/env bash
# Style, types and tests, in the order of what they cost.
#
#   launch/test.sh [unit] [pytest arguments ...]
#
# `unit`: what takes minutes, for while you work; without the unit tests that are marked slow, and without those that
# start launchers and kill processes. Makes .venv when it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
fi
UNIT=
if [[ ${1:-} == unit ]]; then
    UNIT=1
    shift
fi

make_venv quickstart,dev
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
[[ $(count_gpus) != 0 ]] || export DS_ACCELERATOR=cpu

start ruff check .
start ruff format --check .
start mypy
if [[ -n $UNIT ]]; then
    start python -m pytest tests/unit -n 2 -m "not slow" "$@"
    exit 0
fi
# a file at a time: those that start launchers come first, the short ones fill up the end
start python -m pytest tests --ignore tests/benchmarks -n 2 --dist loadfile --no-loadscope-reorder "$@"
