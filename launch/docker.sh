#!/usr/bin/env bash
# All stages of a recipe in a container with all GPUs of this machine.
#
#   launch/docker.sh [--dry-run] [--gpus N] [--stages "search retrain"] RECIPE [section.key=value ...]
#
# IMAGE (vitas_ds) is built from the Dockerfile when it is missing. DATA (./data) is mounted read-only as data/, RUNS
# (./runs) as runs/; W&B variables are passed on. SHM (16g) is the shared memory of the ranks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh
ARGS=("$@")
make_venv() { :; } # the image has its own
parse_launch "$@"
[[ -z $HOSTFILE ]] || die "--hostfile: several nodes are launch/multi_node.sh's"

IMAGE=${IMAGE:-vitas_ds}
if [[ -z ${DRY_RUN:-} ]]; then
    command -v docker >/dev/null || die "docker is not installed"
    docker image inspect "$IMAGE" >/dev/null 2>&1 || start docker build --tag "$IMAGE" .
    mkdir -p "${RUNS:-runs}"
fi
options=(--rm --init --ipc private --shm-size "${SHM:-16g}" --ulimit memlock=-1 --ulimit stack=67108864)
[[ $(count_gpus) == 0 ]] || options+=(--gpus all)
options+=(--user "$(id -u):$(id -g)" --env HOME=/tmp)
options+=(--volume "$(realpath -m "${DATA:-data}"):/opt/vitas_ds/data:ro")
options+=(--volume "$(realpath -m "${RUNS:-runs}"):/opt/vitas_ds/runs")
for name in WANDB_API_KEY WANDB_MODE WANDB_PROJECT WANDB_ENTITY WANDB_BASE_URL; do
    [[ -z ${!name:-} ]] || options+=(--env "$name")
done
inside=()
for word in "${ARGS[@]}"; do
    [[ $word == --dry-run ]] || inside+=("$word")
done
start docker run "${options[@]}" "$IMAGE" launch/single_node.sh "${inside[@]}"
