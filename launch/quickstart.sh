#!/usr/bin/env bash
# Run every stage of ViTAS on 5,000 real digits: supernet, search, retrain, evaluate, export, report. Needs no GPU.
#
#   launch/quickstart.sh [--fresh] [section.key=value ...]
#
# Creates .venv if it is missing. A second start resumes. With other settings, it runs the stages again whose results
# depend on them, and keeps the old results in old/ of the run. --fresh starts over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh

FRESH=
overrides=()
for word in "$@"; do
    case $word in
    -h | --help)
        sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
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
MISSING=$(.venv/bin/python -c '
import os, sys, yaml
data = yaml.safe_load(sys.stdin)["data"]
folders = {name: data[name] for name in ("train", "val") if not data["synthetic"]}
print(next((f"data.{name}: {path}: no such folder" for name, path in folders.items() if not os.path.isdir(path)), ""))
' <<<"$resolved")
[[ -z $MISSING ]] || die "$MISSING"
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

# Whether a stage has ended and has nothing to do: it has a summary, and settings and chosen network are the same.
ended() {
    .venv/bin/python - "$1" "$RUN" "${overrides[@]}" 2>/dev/null <<'EOF'
import json, sys
from pathlib import Path

from vitas_ds.recipe import load
from vitas_ds.run.compatibility import differences
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.run.summary import read_summary

stage, run = sys.argv[1], RunDir(Path(sys.argv[2]))
done = stage in read_summary(run) and not differences(read_config(run), load("quickstart", sys.argv[3:]))
if done and stage == "retrain":
    done = json.loads(run.best.read_text())["spec"] == json.loads(run.retrain_spec.read_text())
sys.exit(not done)
EOF
}

for stage in "${STAGES[@]}"; do
    echo
    echo "== $stage"
    words=("$stage" quickstart "${overrides[@]}")
    [[ $stage == report ]] || words+=(--redo)
    if [[ $stage == report ]] || ended "$stage"; then # one process is enough
        start_ranks 0 .venv/bin/python -m vitas_ds "${words[@]}"
    else
        which_gpus "$RANKS"
        start_ranks 2 .venv/bin/deepspeed "${WHICH[@]}" --master_port "$(free_port)" --log_level error \
            --module vitas_ds "${words[@]}"
    fi
done
cat <<EOF

Next, in the environment of this checkout (docs/manual.md):
    source .venv/bin/activate
    vitas status $RUN
    vitas search $RUN run.name=small search.checkpoint=$RUN "search.macs=[0.5e6, 0.8e6]"
EOF
