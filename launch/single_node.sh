#!/usr/bin/env bash
# Run all stages of a recipe on the GPUs of this machine with the deepspeed launcher.
#
#   launch/single_node.sh [--dry-run] [--gpus N] [--stages "search retrain"] RECIPE [section.key=value ...]
#
# Without --gpus it uses all GPUs, or two CPU ranks if there are none. A second start resumes; with --redo (in all
# scripts), stages whose settings have changed run again.
# On SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or SIGHUP the ranks save, and it exits with 75: start it again. A second signal
# stops at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh
parse_launch "$@"
[[ -z $HOSTFILE ]] || die "--hostfile: use launch/multi_node.sh for several nodes"

export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [[ $(count_gpus) == 0 ]]; then
    export DS_ACCELERATOR=cpu
    GPUS=${GPUS:-2}
fi
RANKS=${GPUS:-$(count_gpus)}
check_run "$RANKS"
print_ranks "${HOSTNAME:-localhost}:$RANKS"
for stage in "${STAGES[@]}"; do
    words_of "$stage"
    if alone "$stage"; then
        start_ranks 0 python -m vitas_ds "${WORDS[@]}"
    else
        which_gpus "$RANKS"
        start_ranks 2 deepspeed "${WHICH[@]}" --master_port "${MASTER_PORT:-$(free_port)}" --log_level error \
            --module vitas_ds "${WORDS[@]}"
    fi
done
