#!/usr/bin/env bash
# Start COMMAND once for each of the N GPUs of a node. launch/slurm.sbatch uses it if Slurm has one task per node.
#
#   launch/node.sh N COMMAND [ARGUMENT ...]
#
# Passes SIGTERM, SIGINT, SIGUSR1 and SIGHUP on to all ranks. Exits with the status of the first rank that failed; the
# other ranks are killed then. After status 75 (stop requested) they are not killed: they save and exit by themselves.
set -uo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
fi
if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "node.sh: N COMMAND ...: N is the number of ranks, 1 or more" >&2
    exit 2
fi
COUNT=$1
shift
export VITAS_NODE=1 LOCAL_WORLD_SIZE=$COUNT WORLD_SIZE=$((COUNT * ${SLURM_STEP_NUM_NODES:-1}))
ranks=()
for signal in TERM INT USR1 HUP; do
    # shellcheck disable=SC2064 # expand the signal now
    trap "kill -$signal \"\${ranks[@]}\" 2>/dev/null" "$signal"
done
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
    sleep 1 & # in the background: `wait` returns at once on a signal
    wait $!
done
exit "$status"
