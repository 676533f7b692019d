#!/usr/bin/env bash
# Run all stages of a recipe with torchrun, on this machine or, if started on each of NODES nodes, on all of them.
#
#   launch/torchrun.sh [--dry-run] [--gpus N] [--stages "search retrain"] RECIPE [section.key=value ...]
#   NODES=2 NODE_RANK=0 MASTER_ADDR=node1 launch/torchrun.sh RECIPE ...     with NODE_RANK=1 on the other node
#
# Without --gpus it uses all GPUs of the node, or two CPU ranks if there are none. Each stage has its own port, starting
# at MASTER_PORT (29500). The nodes share the checkout, the images and the run folder. torchrun exits with status 1
# whatever the status of a rank; after SIGTERM the ranks have 30 seconds to save. A second start resumes.
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
