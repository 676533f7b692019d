#!/usr/bin/env bash
# Run every stage of ViTAS on 5,000 real digits: supernet, search, retrain, evaluate, export, report. Needs no GPU.
#
#   launch/quickstart.sh [--fresh] [section.key=value ...]
#
# Creates .venv if it is missing. A second start resumes; --fresh starts over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh

FRESH=
overrides=()
for word in "$@"; do
    case $word in
    -h | --help)
        sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --fresh) FRESH=1 ;;
    -*) die "$word: no such option; see --help" ;;
    *) overrides+=("$word") ;;
    esac
done

stop_between_stages
make_venv quickstart
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
.venv/bin/python launch/make_digits.py

# check the overrides before anything is removed or started
resolved=$(.venv/bin/python -m vitas_ds config quickstart "${overrides[@]}")
RUN=$(.venv/bin/python -c 'import sys, yaml; run = yaml.safe_load(sys.stdin)["run"]; print(run["dir"] + "/" + run["name"])' \
    <<<"$resolved")
if [[ -n $FRESH && -e $RUN ]]; then
    [[ -f $RUN/config.yaml ]] || die "$RUN: has no config.yaml, so --fresh does not remove it; choose another run.name"
    rm -r -- "$RUN"
fi

RANKS=$(count_gpus)
if ((RANKS == 0)); then
    export DS_ACCELERATOR=cpu
    RANKS=2
elif ((RANKS > 2)); then
    RANKS=2
fi

ended() {
    [[ -f $RUN/summary.json ]] &&
        .venv/bin/python -c 'import json, sys; sys.exit(sys.argv[1] not in json.load(open(sys.argv[2])))' "$1" "$RUN/summary.json"
}

for stage in "${STAGES[@]}"; do
    echo
    echo "== $stage"
    if [[ $stage == report ]] || ended "$stage"; then # one process is enough
        start_ranks 0 .venv/bin/python -m vitas_ds "$stage" quickstart "${overrides[@]}"
    else
        read -ra which < <(which_gpus "$RANKS")
        start_ranks 2 .venv/bin/deepspeed "${which[@]}" --master_port "$(free_port)" --log_level error \
            --module vitas_ds "$stage" quickstart "${overrides[@]}"
    fi
done
