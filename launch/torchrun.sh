#!/usr/bin/env bash
# Run all stages of a recipe with torchrun, on this machine or, if started on each of NODES nodes, on all of them.
#
#   launch/torchrun.sh [--dry-run] [--gpus N] [--stages "search retrain"] RECIPE [section.key=value ...]
#   NODES=2 NODE_RANK=0 MASTER_ADDR=node1 launch/torchrun.sh RECIPE ...     with NODE_RANK=1 on the other node
#
# Without --gpus it uses all GPUs of the node, or two CPU ranks if there are none. Several nodes use one port per stage,
# from MASTER_PORT (29500) on; one node uses MASTER_PORT or a free port. The nodes share the checkout, the images and the
# run folder. On SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or SIGHUP the ranks save, and it exits with 75: start it again. A
# second signal stops at once. vitas_ds.distributed.torchrun starts torchrun, and exits with the status of the ranks
# instead of 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh
parse_launch "$@"
[[ -z $HOSTFILE ]] || die "--hostfile: use launch/multi_node.sh, or set NODES, NODE_RANK and MASTER_ADDR on each node"
NODES=${NODES:-1} NODE_RANK=${NODE_RANK:-0}
[[ $NODES =~ ^[1-9][0-9]*$ ]] || die "NODES=$NODES: not a number above 0"
[[ $NODE_RANK =~ ^[0-9]+$ && $NODE_RANK -lt $NODES ]] || die "NODE_RANK=$NODE_RANK: must be 0 to $((NODES - 1))"
((NODES == 1)) || [[ -n ${MASTER_ADDR:-} ]] || die "MASTER_ADDR is needed: the address of the first node"

export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [[ $(count_gpus) == 0 ]]; then
    export DS_ACCELERATOR=cpu
    GPUS=${GPUS:-2}
fi
RANKS=${GPUS:-$(count_gpus)}
check_run $((NODES * RANKS))
nodes=()
for ((node = 0; node < NODES; node++)); do
    ((node)) && name="node $node" || name=${MASTER_ADDR:-${HOSTNAME:-localhost}}
    nodes+=("$name:$RANKS")
done
print_ranks "${nodes[@]}"
port=${MASTER_PORT:-29500}
for stage in "${STAGES[@]}"; do
    words_of "$stage"
    where=(--nproc-per-node "$RANKS" --nnodes "$NODES" --node-rank "$NODE_RANK")
    if ((NODES > 1)); then
        where+=(--rdzv-conf "timeout=${TIMEOUT%.*}" --master-addr "$MASTER_ADDR" --master-port "$((port++))")
    else
        where+=(--master-addr 127.0.0.1 --master-port "${MASTER_PORT:-$(free_port)}")
    fi
    if ! alone "$stage"; then
        start_ranks 1 python -m vitas_ds.distributed.torchrun "${where[@]}" -m vitas_ds "${WORDS[@]}"
    elif ((NODE_RANK == 0)); then
        start_ranks 0 python -m vitas_ds "${WORDS[@]}"
    fi
done
