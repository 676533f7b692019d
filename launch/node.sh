#!/usr/bin/env bash
# The ranks of one node: COMMAND once for each of N GPUs. launch/slurm.sbatch starts it where Slurm has one task a node.
#
#   launch/node.sh N COMMAND [ARGUMENT ...]
#
# SIGTERM goes on to all ranks. The status is that of the first rank that ended badly, and the others are ended with it,
# unless it was asked to stop (75): then they save as well and end by themselves.
set -uo pipefail
if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "node.sh: N COMMAND ...: N is the number of ranks, 1 or more" >&2
    exit 2
fi
COUNT=$1
shift
export LOCAL_WORLD_SIZE=$COUNT WORLD_SIZE=$((COUNT * ${SLURM_STEP_NUM_NODES:-1}))
ranks=()
trap 'kill -TERM "${ranks[@]}" 2>/dev/null' TERM
for ((i = 0; i < COUNT; i++)); do
    RANK=$((COUNT * ${SLURM_NODEID:-0} + i)) LOCAL_RANK=$i "$@" &
    ranks[i]=$!
done

status=0
while ((${#ranks[@]})); do
    for i in "${!ranks[@]}"; do
        kill -0 "${ranks[i]}" 2>/dev/null && continue
        wait "${ranks[i]}"
        code=$?
        unset "ranks[i]"
        ((code && !status)) || continue
        status=$code
        ((code == 75)) || kill -KILL "${ranks[@]}" 2>/dev/null
    done
    sleep 1 & # waited for, so that a signal is passed on at once
    wait $!
done
exit "$status"
