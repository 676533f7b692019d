# shellcheck shell=bash
# Functions of the launch scripts. Source it from the root of the checkout.

# shellcheck disable=SC2034 # read by the scripts that source this file
STAGES=(train-supernet search retrain evaluate export report)

die() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# Print a command and run it, unless DRY_RUN is set.
start() {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
    [[ -n ${DRY_RUN:-} ]] || "$@"
}

# Print the child processes of the given processes.
children() {
    local pid
    for pid in "$@"; do
        cat "/proc/$pid"/task/*/children 2>/dev/null || true
    done
}

# start_ranks DEPTH COMMAND ...: start a launcher and pass SIGTERM, SIGINT and SIGHUP on to its ranks, DEPTH generations
# below it, so they can save and exit with status 75. Launchers would exit with a status of their own or ignore the
# signal.
start_ranks() {
    local depth=$1 launcher status=0
    shift
    if [[ -n ${DRY_RUN:-} ]]; then
        start "$@"
        return
    fi
    DRY_RUN=1 start "$@"
    set -m # own process group: otherwise the ranks get the terminal's Ctrl-C twice, directly and from us
    "$@" &
    launcher=$!
    set +m
    # shellcheck disable=SC2064 # expand now
    trap "signal_ranks TERM $depth $launcher" TERM HUP
    # shellcheck disable=SC2064
    trap "signal_ranks INT $depth $launcher" INT
    while kill -0 "$launcher" 2>/dev/null; do
        wait "$launcher" || true # returns when it ends or a signal arrives
    done
    trap - TERM HUP INT
    wait "$launcher" || status=$?
    return "$status"
}

# signal_ranks SIGNAL DEPTH LAUNCHER: signal the ranks, or the launcher itself if it has no ranks yet.
signal_ranks() {
    local pids=$3 generation found
    for ((generation = 0; generation < $2; generation++)); do
        # shellcheck disable=SC2086 # split the list
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

# make_venv EXTRA: create .venv with this package and the given extras. Installs again only if the requirements changed.
make_venv() {
    local requirements python extra missing=
    requirements=$(cat requirements.txt pyproject.toml)
    for extra in ${1//,/ }; do
        [[ -f .venv/installed.$extra && $(<".venv/installed.$extra") == "$requirements" ]] || missing=1
    done
    [[ -n $missing ]] || return 0
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "creating .venv with $python"
        "$python" -m venv --clear .venv
    fi
    echo "installing requirements.txt and .[$1] into .venv (minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$1]"
    for extra in ${1//,/ }; do
        printf '%s\n' "$requirements" >".venv/installed.$extra"
    done
}

free_port() {
    [[ -x .venv/bin/python ]] || { echo 29500 && return; }
    .venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Print the number of usable NVIDIA GPUs. CUDA ignores -1 in CUDA_VISIBLE_DEVICES and everything after it.
count_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        awk -F, '{ for (n = 0; n < NF && $(n + 1) !~ /^ *-/; n++); print n }' <<<"$CUDA_VISIBLE_DEVICES"
    else
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true
    fi
}

# which_gpus N: print the deepspeed launcher's arguments for N ranks on this node. With --num_gpus the launcher ignores
# CUDA_VISIBLE_DEVICES and takes GPUs 0, 1, ...; with --include it takes the listed ones.
which_gpus() {
    if [[ $(count_gpus) == 0 || ! ${CUDA_VISIBLE_DEVICES:-} =~ ^[0-9]+(,[0-9]+)*$ ]]; then
        echo "--num_gpus $1"
    else
        echo "--include localhost:$(cut -d, -f "1-$1" <<<"$CUDA_VISIBLE_DEVICES")"
    fi
}

# Resolve a path relative to the folder that the script was called from; other paths stay as given.
from_caller() {
    if [[ $1 != /* && -f ${OLDPWD:-.}/$1 ]]; then
        realpath -- "${OLDPWD:-.}/$1"
    else
        echo "$1"
    fi
}

# Check recipe and overrides before a launcher starts: an error is one line. Creates .venv if it is missing.
check_run() {
    [[ -z ${DRY_RUN:-} ]] || return 0
    [[ -x .venv/bin/python ]] || make_venv quickstart
    python -m vitas_ds config "$RECIPE" "${OVERRIDES[@]}" >/dev/null || exit
}

# parse_launch "$@": set DRY_RUN, STAGES, RECIPE, OVERRIDES, and GPUS and HOSTFILE if those options are given.
# `--help` prints the comment at the top of the script. Call it right after `cd`, because it uses OLDPWD.
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
    ((${#STAGES[@]})) || die "--stages: names no stage; choose from$known"
    for stage in "${STAGES[@]}"; do
        [[ $known == *" $stage "* ]] || die "--stages: $stage: no such stage; choose from$known"
    done
    [[ -z $GPUS || $GPUS =~ ^[1-9][0-9]*$ ]] || die "--gpus $GPUS: not a number above 0"
    visible=$([[ -z ${CUDA_VISIBLE_DEVICES:-} ]] || count_gpus)
    ((${visible:-0} == 0 || ${GPUS:-0} <= visible)) || die "--gpus $GPUS: CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES has $visible"
}

# Whether a stage runs in one process.
alone() {
    [[ $1 == export || $1 == report ]]
}
