#!/usr/bin/env bash
# All stages of a recipe on several nodes, from the first of them, by the deepspeed launcher over ssh (needs pdsh).
#
#   launch/multi_node.sh --hostfile FILE [--dry-run] [--stages "search retrain"] RECIPE [section.key=value ...]
#
# FILE has a line for each node, "node1 slots=8". Each node must reach the others by ssh without a password, and have
# this checkout, the images and the run folder under the same paths. Environment variables for the ranks go into the
# file .deepspeed_env (NAME=value a line). MASTER_ADDR and MASTER_PORT: the first node and 29500 if not set.
# To stop a job, stop its ranks on the nodes: a signal to the launcher makes it end every deepspeed job there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh
parse_launch "$@"
[[ -n $HOSTFILE ]] || die "--hostfile FILE is needed; one node is launch/single_node.sh's"
[[ -z $GPUS ]] || die "--gpus: the hostfile's slots say how many"
[[ -r $HOSTFILE && ! -d $HOSTFILE ]] || die "$HOSTFILE: no such file"
! grep -vE '^[[:space:]]*(#.*)?$|^[^[:space:]]+[[:space:]]+slots=[1-9][0-9]*[[:space:]]*$' "$HOSTFILE" >/dev/null ||
    die "$HOSTFILE: each line is \"node slots=N\""
FIRST=$(awk '!/^[[:space:]]*(#|$)/ { print $1; exit }' "$HOSTFILE")
[[ -n $FIRST ]] || die "$HOSTFILE: no node in it"
[[ -n ${DRY_RUN:-} ]] || command -v pdsh >/dev/null || die "pdsh is not installed (apt install pdsh)"

export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# or pdsh waits for ever for a node that was switched off
export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
check_run
for stage in "${STAGES[@]}"; do
    if alone "$stage"; then
        start python -m vitas_ds "$stage" "$RECIPE" "${OVERRIDES[@]}"
    else
        start deepspeed --hostfile "$HOSTFILE" --master_addr "${MASTER_ADDR:-$FIRST}" \
            --master_port "${MASTER_PORT:-29500}" --module vitas_ds "$stage" "$RECIPE" "${OVERRIDES[@]}"
    fi
done
