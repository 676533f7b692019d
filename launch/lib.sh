# shellcheck shell=bash
# What the launch scripts share. Source it from the root of the checkout.

# shellcheck disable=SC2034 # read by the scripts that source this file
STAGES=(train-supernet search retrain evaluate export report)

die() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# Print a command, and run it unless DRY_RUN is set.
start() {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
    [[ -n ${DRY_RUN:-} ]] || "$@"
}

# The processes that those given have started.
children() {
    local pid
    for pid in "$@"; do
        cat "/proc/$pid"/task/*/children 2>/dev/null || true
    done
}

# start_ranks DEPTH COMMAND ...: start a launcher. Asked to stop (SIGTERM, Ctrl-C, the end of the terminal), it is its
# ranks that hear of it, DEPTH generations below the launcher, so that they save and end with status 75; launchers end
# them with a status of their own, or hear nothing.
start_ranks() {
    local depth=$1 launcher status=0
    shift
    if [[ -n ${DRY_RUN:-} ]]; then
        start "$@"
        return
    fi
    DRY_RUN=1 start "$@"
    set -m # a process group of its own: what the terminal sends comes to the ranks once, through us
    "$@" &
    launcher=$!
    set +m
    # shellcheck disable=SC2064 # as they are now
    trap "tell_ranks TERM $depth $launcher" TERM HUP
    # shellcheck disable=SC2064
    trap "tell_ranks INT $depth $launcher" INT
    while kill -0 "$launcher" 2>/dev/null; do
        wait "$launcher" || true # until it ends, or we are told something
    done
    trap - TERM HUP INT
    wait "$launcher" || status=$?
    return "$status"
}

# tell_ranks SIGNAL DEPTH LAUNCHER: the launcher itself is told where it has no ranks yet.
tell_ranks() {
    local pids=$3 generation found
    for ((generation = 0; generation < $2; generation++)); do
        # shellcheck disable=SC2086 # words
        found=$(children $pids)
        pids=$found
    done
    # shellcheck disable=SC2086
    kill "-$1" ${pids:--$3} 2>/dev/null || true
}

find_python() {
    local name
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    die "needs Python 3.11 or newer with venv (Debian, Ubuntu: apt install python3 python3-venv; or set PYTHON)"
}

# make_venv EXTRA: .venv with this package and what its extra needs. Installs again only when the versions asked for
# have changed.
make_venv() {
    local wanted python extra missing=
    wanted=$(cat requirements.txt pyproject.toml)
    for extra in ${1//,/ }; do
        [[ -f .venv/installed.$extra && $(<".venv/installed.$extra") == "$wanted" ]] || missing=1
    done
    [[ -n $missing ]] || return 0
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "making .venv with $python"
        "$python" -m venv --clear .venv
    fi
    echo "installing requirements.txt and .[$1] into .venv (minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$1]"
    for extra in ${1//,/ }; do
        printf '%s\n' "$wanted" >".venv/installed.$extra"
    done
}

free_port() {
    [[ -x .venv/bin/python ]] || { echo 29500 && return; }
    .venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Number of NVIDIA GPUs that processes may use here. Of CUDA_VISIBLE_DEVICES, CUDA ignores -1 and all behind it.
count_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        awk -F, '{ for (n = 0; n < NF && $(n + 1) !~ /^ *-/; n++); print n }' <<<"$CUDA_VISIBLE_DEVICES"
    else
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true
    fi
}

# which_gpus N: the deepspeed launcher's words for N ranks of this node. It forgets CUDA_VISIBLE_DEVICES when told a
# number, and takes 0, 1, ...; told the GPUs themselves, it takes those.
which_gpus() {
    if [[ $(count_gpus) == 0 || ! ${CUDA_VISIBLE_DEVICES:-} =~ ^[0-9]+(,[0-9]+)*$ ]]; then
        echo "--num_gpus $1"
    else
        echo "--include localhost:$(cut -d, -f "1-$1" <<<"$CUDA_VISIBLE_DEVICES")"
    fi
}

# The path of a file that is named from where the script was called, or as it was given.
from_caller() {
    if [[ $1 != /* && -f ${OLDPWD:-.}/$1 ]]; then
        realpath -- "${OLDPWD:-.}/$1"
    else
        echo "$1"
    fi
}

# A mistake in the recipe or its changes is one line, before any launcher starts. .venv is made if it is missing.
check_run() {
    [[ -z ${DRY_RUN:-} ]] || return 0
    [[ -x .venv/bin/python ]] || make_venv quickstart
    python -m vitas_ds config "$RECIPE" "${OVERRIDES[@]}" >/dev/null || exit
}

# parse_launch "$@": sets DRY_RUN, STAGES, RECIPE, OVERRIDES, and GPUS and HOSTFILE where those options are given.
# `--help` prints the comment at the top of the script. Call it right after `cd`.
parse_launch() {
    local known=" ${STAGES[*]} " stage visible
    RECIPE='' OVERRIDES=() GPUS='' HOSTFILE=''
    while (($#)); do
        case $1 in
        -h | --help)
            awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); if (!/^SBATCH/) print }' "$0"
            exit 0
            ;;
        --dry-run) DRY_RUN=1 ;;
        --stages | --gpus | --hostfile)
            (($# > 1)) || die "$1: needs a value"
            case $1 in
            --stages) read -ra STAGES <<<"$2" ;;
            --gpus) GPUS=$2 ;;
            --hostfile) HOSTFILE=$(from_caller "$2") ;;
            esac
            shift
            ;;
        -*) die "$1: no such option; see --help" ;;
        *=*) OVERRIDES+=("$1") ;;
        *)
            [[ -z $RECIPE ]] || die "$1: a second recipe, after $RECIPE; an override has the form section.key=value"
            RECIPE=$1
            [[ -f vitas_ds/recipes/$1.yaml ]] || RECIPE=$(from_caller "$1")
            ;;
        esac
        shift
    done
    [[ -n $RECIPE ]] || die "which recipe? see --help"
    ((${#STAGES[@]})) || die "--stages: names no stage; there are$known"
    for stage in "${STAGES[@]}"; do
        [[ $known == *" $stage "* ]] || die "--stages: $stage: no such stage; there are$known"
    done
    [[ -z $GPUS || $GPUS =~ ^[1-9][0-9]*$ ]] || die "--gpus $GPUS: not a number above 0"
    visible=$([[ -z ${CUDA_VISIBLE_DEVICES:-} ]] || count_gpus)
    ((${visible:-0} == 0 || ${GPUS:-0} <= visible)) || die "--gpus $GPUS: CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES has $visible"
}

# Stages whose work is not shared between ranks.
alone() {
    [[ $1 == export || $1 == report ]]
}
