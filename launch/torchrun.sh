#!/usr/bin/env bash
# All stages of a recipe under torchrun: on this machine or, where it is started on each of NODES, on all of them.
#
#   launch/torchrun.sh [--dry-run] [--gpus N] [--stages "search retrain"] RECIPE [section.key=value ...]
#   NODES=2 NODE_RANK=0 MASTER_ADDR=node1 launch/torchrun.sh RECIPE ...     and NODE_RANK=1 on the other node
#
# Without --gpus it takes all GPUs of the node, or two CPU ranks where there is none. Each stage has a port of its own,
# from MASTER_PORT (29500) on. Nodes share the checkout, the images and the run folder. torchrun ends with status 1
# whatever a rank ended with; asked to stop (SIGTERM), the ranks have 30 seconds to save. Run again, it goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh
parse_launch "$@"
[[ -z $HOSTFILE ]] || die "--hostfile: launch/multi_node.sh's; here each node is told NODES, NODE_RANK and MASTER_ADDR"
NODES=${NODES:-1} NODE_RANK=${NODE_RANK:-0}
[[ $NODES =~ ^[1-9][0-9]*$ ]] || die "NODES=$NODES: not a number above 0"
[[ $NODE_RANK =~ ^[0-9]+$ && $NODE_RANK -lt $NODES ]] || die "NODE_RANK=$NODE_RANK: not one of 0 to $((NODES - 1))"
((NODES == 1)) || [[ -n ${MASTER_ADDR:-} ]] || die "MASTER_ADDR is needed: the first node, as the others know it"

export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [[ $(count_gpus) == 0 ]]; then
    export DS_ACCELERATOR=cpu
    GPUS=${GPUS:-2}
fi
check_run
port=${MASTER_PORT:-29500}
for stage in "${STAGES[@]}"; do
    where=(--nproc-per-node "${GPUS:-$(count_gpus)}")
    if ((NODES > 1)); then
        where+=(--nnodes "$NODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$((port++))")
    else
        where+=(--standalone)
    fi
    if ! alone "$stage"; then
        start_ranks 1 torchrun "${where[@]}" -m vitas_ds "$stage" "$RECIPE" "${OVERRIDES[@]}"
    elif ((NODE_RANK == 0)); then
        start python -m vitas_ds "$stage" "$RECIPE" "${OVERRIDES[@]}"
    fi
done
