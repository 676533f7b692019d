#!/usr/bin/env bash
# Run all stages of a recipe on several nodes with the deepspeed launcher over ssh (needs pdsh). Start it on the first.
#
#   launch/multi_node.sh --hostfile FILE [--dry-run] [--stages "search retrain"] RECIPE [section.key=value ...]
#
# FILE has one line per node, "node1 slots=8". The nodes must reach each other by ssh without a password and have this
# checkout, the images and the run folder under the same paths. Put environment variables for the ranks into
# .deepspeed_env, one NAME=value per line. MASTER_ADDR and MASTER_PORT default to the first node and 29500.
# On SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or SIGHUP it closes the connections: the ranks have 25 seconds to save, and it
# exits with 75.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh
parse_launch "$@"
[[ -n $HOSTFILE ]] || die "--hostfile FILE is needed; use launch/single_node.sh for one node"
[[ -z $GPUS ]] || die "--gpus: set slots in the hostfile instead"
[[ -r $HOSTFILE && ! -d $HOSTFILE ]] || die "$HOSTFILE: no such file"
! grep -vE '^[[:space:]]*(#.*)?$|^[^[:space:]]+[[:space:]]+slots=[1-9][0-9]*[[:space:]]*$' "$HOSTFILE" >/dev/null ||
    die "$HOSTFILE: each line must be \"node slots=N\""
FIRST=$(awk '!/^[[:space:]]*(#|$)/ { print $1; exit }' "$HOSTFILE")
[[ -n $FIRST ]] || die "$HOSTFILE: names no node"
[[ -n ${DRY_RUN:-} ]] || command -v pdsh >/dev/null || die "pdsh is not installed (apt install pdsh)"

export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# without these options pdsh waits forever for a node that was switched off
export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
mapfile -t HOSTS < <(awk '!/^[[:space:]]*(#|$)/ { sub(/slots=/, "", $2); print $1 ":" $2 }' "$HOSTFILE")
RANKS=0
for host in "${HOSTS[@]}"; do
    RANKS=$((RANKS + ${host##*:}))
done
check_run "$RANKS"
print_ranks "${HOSTS[@]}"
depth=remote
((${#HOSTS[@]} > 1)) || depth=2 # deepspeed starts the ranks of a single node itself, without a connection
for stage in "${STAGES[@]}"; do
    words_of "$stage"
    if alone "$stage"; then
        start_ranks 0 python -m vitas_ds "${WORDS[@]}"
    else
        start_ranks "$depth" deepspeed --hostfile "$HOSTFILE" --master_addr "${MASTER_ADDR:-$FIRST}" \
            --master_port "${MASTER_PORT:-29500}" --module vitas_ds "${WORDS[@]}"
    fi
done
