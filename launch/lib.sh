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
        if [[ -r /proc/$pid/task/$pid/children ]]; then
            cat "/proc/$pid"/task/*/children 2>/dev/null || true
        else # a kernel without this file
            awk -v parent="$pid" '{ line = $0; sub(/.*\) /, "", line); split(line, f, " "); if (f[2] == parent) print $1 }' \
                /proc/[0-9]*/stat 2>/dev/null || true
        fi
    done
}

# Exit with status 75 on a stop request, once the command that runs now has ended.
stop_between_stages() {
    trap 'exit 75' TERM INT USR1 HUP
}

# start_ranks DEPTH COMMAND ...: start a launcher, pass stop requests (SIGTERM, SIGINT, SIGUSR1, SIGHUP) on to its
# ranks, DEPTH generations below it, and return the status of the ranks: launchers change it, or ignore signals. DEPTH
# `remote`: the ranks are on other nodes, and end when the launcher's connections to them do.
start_ranks() {
    local depth=$1 launcher status=0 signal
    shift
    if [[ -n ${DRY_RUN:-} ]]; then
        start "$@"
        return
    fi
    DRY_RUN=1 start "$@"
    VITAS_STATUS=$(mktemp)
    export VITAS_STATUS
    STOPPING=
    set -m # own process group: otherwise the ranks get the terminal's Ctrl-C twice, directly and from us
    "$@" &
    launcher=$!
    set +m
    for signal in TERM INT USR1 HUP; do
        # shellcheck disable=SC2064 # expand now
        trap "signal_ranks $signal $depth $launcher" "$signal"
    done
    while kill -0 "$launcher" 2>/dev/null; do
        wait "$launcher" || true # returns when it ends or a signal arrives
    done
    stop_between_stages
    wait "$launcher" || status=$?
    status=$(rank_status "$status" "$depth")
    rm -f -- "$VITAS_STATUS"
    unset VITAS_STATUS
    return "$status"
}

# signal_ranks SIGNAL DEPTH LAUNCHER: signal the ranks, or the launcher itself if it has no ranks yet.
signal_ranks() {
    local pids=$3 generation found
    STOPPING=1
    if [[ $2 == remote ]]; then
        kill -KILL "-$3" 2>/dev/null || true
        return 0 # not the status of the interrupted command
    fi
    for ((generation = 0; generation < $2; generation++)); do
        # shellcheck disable=SC2086 # split the list
        found=$(children $pids)
        pids=$found
    done
    # shellcheck disable=SC2086
    kill "-$1" ${pids:--$3} 2>/dev/null || true
}

# rank_status STATUS DEPTH: print the status of the ranks, for that of the launcher. Of several, the first of 1 (a bug),
# 2, 74, 69, 75 is the cause. Without a record, a signal means a lost rank, or a stop request if there was one.
rank_status() {
    local code status=$1
    if [[ $2 != 0 ]]; then
        for code in 1 2 74 69 75; do
            if grep -qx "$code" "$VITAS_STATUS" 2>/dev/null; then
                echo "$code"
                return
            fi
        done
        # the deepspeed launcher returns 0 if its second process was killed
        [[ $status != 0 || $2 == remote || -s $VITAS_STATUS ]] || status=69
    fi
    case $status in
    129 | 130 | 138 | 143) status=75 ;; # SIGHUP, SIGINT, SIGUSR1, SIGTERM
    esac
    if ((status > 128)); then
        [[ -n $STOPPING ]] && status=75 || status=69
    fi
    if [[ -n $STOPPING && $status == [1-9]* && $status != 75 && ! -s $VITAS_STATUS ]]; then
        status=75 # stopped before the ranks started
    fi
    echo "$status"
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
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e ".[$1]"
    # pip would compile with one core; status 1: a template in a package is no valid Python
    .venv/bin/python -m compileall -qq -j 0 .venv/lib vitas_ds || true
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

# which_gpus N: set WHICH to the deepspeed launcher's arguments for N ranks on this node. With --num_gpus the launcher
# ignores CUDA_VISIBLE_DEVICES and takes GPUs 0, 1, ...; with --include it takes those of the listed numbers.
which_gpus() {
    local visible entry number numbers=''
    visible=$(tr -d ' ' <<<"${CUDA_VISIBLE_DEVICES:-}")
    WHICH=(--num_gpus "$1")
    [[ -n $visible && $(count_gpus) != 0 ]] || return 0
    for entry in ${visible//,/ }; do
        [[ $entry != -* ]] || break
        number=$(gpu_number "$entry")
        [[ -n $number ]] || die "CUDA_VISIBLE_DEVICES=$visible: deepspeed needs the numbers of GPUs, and nvidia-smi" \
            "tells none for $entry; use launch/torchrun.sh, which passes the list on"
        numbers+=,$number
        [[ $entry == "$number" ]] || export CUDA_DEVICE_ORDER=PCI_BUS_ID # the numbers of nvidia-smi
    done
    WHICH=(--include "localhost:$(cut -d, -f "1-$1" <<<"${numbers#,}")")
}

# gpu_number ENTRY: print the number of a GPU, given by number or by the beginning of its UUID; nothing if there is none.
gpu_number() {
    if [[ $1 =~ ^[0-9]+$ ]]; then
        echo "$1"
    else
        nvidia-smi --query-gpu=index,uuid --format=csv,noheader 2>/dev/null |
            awk -F ', *' -v id="$1" 'index($2, id) == 1 { n++; number = $1 } END { if (n == 1) print number }' || true
    fi
}

# Resolve a path relative to the folder that the script was called from; other paths stay as given.
from_caller() {
    if [[ $1 != /* && (-f ${OLDPWD:-.}/$1 || -f ${OLDPWD:-.}/$1/config.yaml) ]]; then # a file, or the folder of a run
        realpath -- "${OLDPWD:-.}/$1"
    else
        echo "$1"
    fi
}

# check_run RANKS: check recipe and overrides for a number of ranks before a launcher starts: an error is one line. A
# dry run prints the batch sizes, the memory and the ZeRO layout. Sets TIMEOUT. Creates .venv if it is missing.
check_run() {
    local resolved ranks=$1
    # only these stages have a batch size, which must fit the ranks
    [[ " ${STAGES[*]} " == *" train-supernet "* || " ${STAGES[*]} " == *" retrain "* ]] || ranks=''
    if [[ ! -x .venv/bin/python ]]; then
        [[ -z ${DRY_RUN:-} ]] || die "a dry run needs .venv to check the recipe: start launch/quickstart.sh once"
        make_venv quickstart
    fi
    resolved=$(.venv/bin/python -m vitas_ds config "$RECIPE" "${OVERRIDES[@]}" ${ranks:+--world-size "$ranks"}) || exit
    # shellcheck disable=SC2034 # read by launch/torchrun.sh
    TIMEOUT=$(awk '/^run:/ { run = 1; next } /^[^ ]/ { run = 0 } run && $1 == "timeout:" { print $2 }' <<<"$resolved")
    [[ -z ${DRY_RUN:-} ]] || sed -n 's/^# \{0,1\}//p' <<<"$resolved"
}

# print_ranks HOST:COUNT ...: print which ranks run on which host, in a dry run.
print_ranks() {
    local first=0 entry count
    [[ -n ${DRY_RUN:-} ]] || return 0
    for entry in "$@"; do
        count=${entry##*:}
        ((count > 1)) && echo "ranks $first to $((first + count - 1)): ${entry%:*}" || echo "rank $first: ${entry%:*}"
        first=$((first + count))
    done
}

# parse_launch "$@": set DRY_RUN, STAGES, RECIPE, OVERRIDES, REDO, and GPUS, HOSTFILE, NODES_WANTED and TASKS if those options
# are given (--gpus, --hostfile, --nodes, --ntasks-per-node).
# `--help` prints the comment at the top of the script. Call it right after `cd`, because it uses OLDPWD.
parse_launch() {
    local known=" ${STAGES[*]} " stage visible
    stop_between_stages
    RECIPE='' OVERRIDES=() REDO='' GPUS='' HOSTFILE='' NODES_WANTED='' TASKS=''
    while (($#)); do
        [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
        case $1 in
        -h | --help)
            awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); if (!/^SBATCH/) print }' "$0"
            exit 0
            ;;
        --dry-run) DRY_RUN=1 ;;
        --redo) REDO=1 ;;
        --stages | --gpus | --hostfile | --nodes | --ntasks-per-node)
            (($# > 1)) || die "$1: needs a value"
            case $1 in
            --stages) read -ra STAGES <<<"$2" ;;
            --gpus) GPUS=$2 ;;
            --nodes) NODES_WANTED=$2 ;;
            --ntasks-per-node) TASKS=$2 ;;
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
    if [[ -n $NODES_WANTED$TASKS ]]; then
        [[ ${0##*/} == slurm.sbatch ]] || die "--nodes and --ntasks-per-node: options of sbatch; see --help"
        [[ -n ${DRY_RUN:-} ]] || die "--nodes and --ntasks-per-node: give them to sbatch, before launch/slurm.sbatch"
        [[ ${NODES_WANTED:-1} =~ ^[1-9][0-9]*$ ]] || die "--nodes $NODES_WANTED: not a number above 0"
        [[ ${TASKS:-1} =~ ^[1-9][0-9]*$ ]] || die "--ntasks-per-node $TASKS: not a number above 0"
    fi
    visible=$([[ -z ${CUDA_VISIBLE_DEVICES:-} ]] || count_gpus)
    ((${visible:-0} == 0 || ${GPUS:-0} <= visible)) || die "--gpus $GPUS: CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES has $visible"
}

# words_of STAGE: set WORDS to the arguments of vitas_ds for a stage.
words_of() {
    WORDS=("$1" "$RECIPE" "${OVERRIDES[@]}")
    [[ -z $REDO || $1 == report ]] || WORDS+=(--redo)
}

# Whether a stage runs in one process.
alone() {
    [[ $1 == export || $1 == report ]]
}
