#!/usr/bin/env bash
# Run the linters and the tests. Creates .venv if it is missing.
#
#   launch/test.sh [lint|unit|distributed|long] [PYTEST_ARGUMENT ...]
#
#   lint          ruff, mypy, shellcheck, generated documents
#   unit          linters, then the unit tests except those marked slow
#   distributed   tests that launch several processes or kill them (tests/distributed, tests/faults)
#   long          every benchmark once, with little work, and two minutes of attacks
#   (no word)     linters, then all tests except the long ones
#
# All other arguments go to pytest: `launch/test.sh -k checkpoint`, `launch/test.sh unit -x`.
# DRY_RUN=1 prints the commands without running them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh

PART=all
case ${1:-} in
-h | --help)
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
    ;;
lint | unit | distributed | long)
    PART=$1
    shift
    ;;
esac

[[ -n ${DRY_RUN:-} ]] || make_venv quickstart,dev
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
[[ $(count_gpus) != 0 ]] || export DS_ACCELERATOR=cpu

if [[ $PART != distributed && $PART != long ]]; then
    start ruff check .
    start ruff format --check .
    start mypy
    start shellcheck -x launch/*.sh launch/slurm.sbatch .ci/run
    start python -m vitas_ds.tools.document --check
fi

case $PART in
unit) start python -m pytest tests/unit -n 2 -m "not slow and not long" "$@" ;;
# Assign whole files to workers: module fixtures run once. Files that launch jobs come first, short ones fill the end.
distributed) start python -m pytest tests/distributed tests/faults -n 2 --dist loadfile --no-loadscope-reorder -m "not long" "$@" ;;
long) start python -m pytest tests/unit tests/faults -m long "$@" ;;
all)
    start python -m pytest tests --ignore tests/benchmarks -n 2 --dist loadfile --no-loadscope-reorder -m "not long" "$@"
    ;;
esac
