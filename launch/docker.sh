#!/usr/bin/env bash
# All stages of a recipe in a container with the GPUs of this machine.
#
#   launch/docker.sh [--dry-run] [--gpus N] [--stages "search retrain"] RECIPE [section.key=value ...]
#
# IMAGE (vitas_ds) is built from the Dockerfile if it is missing. DATA (./data) is mounted read-only as data/, RUNS
# (./runs) as runs/. Both are also mounted under their own paths, so a recipe works inside as outside. Uses all GPUs, or
# those of CUDA_VISIBLE_DEVICES. Passes W&B variables on. SHM (16g) is the shared memory of the ranks.
set -euo pipefail
DATA=${DATA:+$(realpath -ms -- "$DATA")} RUNS=${RUNS:+$(realpath -ms -- "$RUNS")} # keep symbolic links: recipes name them
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh
parse_launch "$@"
[[ -z $HOSTFILE ]] || die "--hostfile: use launch/multi_node.sh for several nodes"

HOME_INSIDE=/opt/vitas_ds
IMAGE=${IMAGE:-vitas_ds} DATA=${DATA:-$PWD/data} RUNS=${RUNS:-$PWD/runs}
[[ -d $DATA || -n ${DRY_RUN:-} ]] || die "DATA=$DATA: no such folder"
if [[ -n ${DRY_RUN:-} ]]; then
    RANKS=${GPUS:-$(count_gpus)}
    ((RANKS)) || RANKS=2
    check_run "$RANKS"
    print_ranks "container on ${HOSTNAME:-localhost}:$RANKS"
else
    command -v docker >/dev/null || die "docker is not installed"
    docker version >/dev/null 2>&1 || die "cannot reach the Docker engine; check with: docker version"
    docker image inspect "$IMAGE" >/dev/null 2>&1 || start docker build --tag "$IMAGE" .
    mkdir -p "$RUNS"
fi
options=(--rm --init --stop-timeout 120 --ipc private --shm-size "${SHM:-16g}" --ulimit memlock=-1 --ulimit stack=67108864)
if [[ $(count_gpus) != 0 ]]; then
    [[ -n ${CUDA_VISIBLE_DEVICES:-} ]] && devices="\"device=$CUDA_VISIBLE_DEVICES\"" || devices=all
    options+=(--gpus "$devices")
fi
options+=(--user "$(id -u):$(id -g)" --env HOME=/tmp)
options+=(--volume "$DATA:$HOME_INSIDE/data:ro" --volume "$RUNS:$HOME_INSIDE/runs")
[[ $DATA == "$HOME_INSIDE/data" ]] || options+=(--volume "$DATA:$DATA:ro")
[[ $RUNS == "$HOME_INSIDE/runs" ]] || options+=(--volume "$RUNS:$RUNS")
for name in "${!WANDB_@}"; do # folders of this machine are not in the container
    [[ -z ${!name} || $name == *_DIR ]] || options+=(--env "$name")
done
words=("$RECIPE" "${OVERRIDES[@]}" ${REDO:+--redo})
for word in "${OVERRIDES[@]}"; do
    path=${word#*=}
    [[ $path != /* || $path/ == "$DATA"/* || $path/ == "$RUNS"/* ]] ||
        echo "docker.sh: warning: $word lies outside DATA=$DATA and RUNS=$RUNS; the container does not see it" >&2
done
if [[ -f $RECIPE ]]; then # the user's, or newer than the one in the image
    words[0]=$HOME_INSIDE/mounted/${RECIPE##*/}
    options+=(--volume "$(realpath -- "$RECIPE"):${words[0]}:ro")
fi
start_ranks 0 docker run "${options[@]}" "$IMAGE" launch/single_node.sh ${GPUS:+--gpus "$GPUS"} --stages "${STAGES[*]}" "${words[@]}"
