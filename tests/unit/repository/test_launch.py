"""The launch scripts without GPUs, nodes, Slurm or Docker: arguments, and the commands of a dry run.

References: the deepspeed launcher's own parser, and commands written by hand.
"""

import os
import signal
import subprocess
import time
from functools import cache

import pytest
import torch

from tests.helpers.launch_scripts import commands, launch
from tests.helpers.paths import ROOT
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load

STAGES = ["train-supernet", "search", "retrain", "evaluate", "export", "report"]
HOSTS = "node-a slots=8\n# a comment\nnode-b slots=8\n"
RECIPE = "vitas_1g_bcnet"
MINE = (ROOT / "tests" / "fixtures" / "tiny.yaml").read_text()


def test_single_node():
    args = ["quickstart", "run.seed=3", "search.macs=[1e6, 2e6]"]
    lines = commands(launch("single_node.sh", "--dry-run", "--gpus", "4", *args))
    assert [line[line.index("vitas_ds") + 1] for line in lines] == STAGES
    assert all(line[-3:] == args for line in lines)  # quoted: a space survives
    for line in lines[:4]:
        assert line[0] == "deepspeed" and line[line.index("--num_gpus") + 1] == "4"
    assert [line[0] for line in lines[4:]] == ["python", "python"]


@pytest.mark.parametrize(
    ("visible", "args", "expected"),
    [
        ("1,2,5", [], ["--include", "localhost:1,2,5"]),  # with --num_gpus 3, deepspeed would take 0, 1 and 2
        ("1,2,5", ["--gpus", "2"], ["--include", "localhost:1,2"]),
        ("3", [], ["--include", "localhost:3"]),
        ("GPU-aa1,GPU-b", [], ["--include", "localhost:4,6"]),
        ("2, 3", [], ["--include", "localhost:2,3"]),
        ("2,-1,3", [], ["--include", "localhost:2"]),
        ("-1", [], ["--num_gpus", "2"]),  # none: two CPU ranks
        ("", ["--gpus", "3"], ["--num_gpus", "3"]),
    ],
)
def test_single_node_uses_the_visible_gpus(tmp_path, visible, args, expected):
    env = {"CUDA_VISIBLE_DEVICES": visible, "PATH": with_nvidia_smi(tmp_path)}
    done = launch("single_node.sh", "--dry-run", "--stages", "search", RECIPE, *args, **env)
    (line,) = commands(done)
    assert line[1:3] == expected and line[3] == "--master_port"


def test_every_script_takes_the_gpus_from_the_array():
    """``which_gpus`` prints nothing: a script that reads its output would end there."""
    calls = 0
    for script in (ROOT / "launch").glob("*.sh"):
        lines = [line.strip() for line in script.read_text().splitlines()]
        for i, line in enumerate(lines):
            if "which_gpus " in line and not line.startswith("#"):
                assert line == 'which_gpus "$RANKS"' and '"${WHICH[@]}"' in lines[i + 1], script.name
                calls += 1
    assert calls == 2


@pytest.mark.parametrize("visible", ["GPU-cc", "GPU-aa", "MIG-aa1"])  # unknown, of two GPUs, a part of one
def test_gpus_without_a_number_are_refused(tmp_path, visible):
    env = {"CUDA_VISIBLE_DEVICES": visible, "PATH": with_nvidia_smi(tmp_path)}
    done = launch("single_node.sh", "--dry-run", "--stages", "search", RECIPE, **env)
    assert done.returncode == 2 and f"tells none for {visible}; use launch/torchrun.sh" in done.stderr
    assert done.stderr.count("\n") == 1


def with_nvidia_smi(folder):
    """Return a PATH with a substitute that lists three GPUs."""
    (folder / "nvidia-smi").write_text('#!/bin/sh\nprintf "4, GPU-aa1\\n5, GPU-aa2\\n6, GPU-bb\\n"\n')
    (folder / "nvidia-smi").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("script", ["single_node.sh", "torchrun.sh"])
def test_redo_is_an_option_of_every_stage_but_report(script):
    one, two = commands(launch(script, "--redo", "--dry-run", "--stages", "search report", RECIPE))
    assert one[-2:] == [RECIPE, "--redo"] and two[-1] == RECIPE


def test_deepspeed_interprets_include_and_num_gpus_as_expected():
    """Reference: the deepspeed launcher's own parser."""
    from deepspeed.launcher import runner

    found = {"localhost": 8}
    assert runner.parse_inclusion_exclusion(found, "localhost:1,2,5", "") == {"localhost": [1, 2, 5]}
    every = runner.parse_inclusion_exclusion(found, "", "")
    assert runner.apply_num_nodes_and_gpus(every, -1, 3) == {"localhost": [0, 1, 2]}


def test_paths_are_relative_to_the_folder_of_the_caller(tmp_path):
    (tmp_path / "my.yaml").write_text(MINE)
    (tmp_path / "hosts").write_text(HOSTS)
    (tmp_path / "quickstart").write_text("not a recipe, but a file with the name of a recipe")
    (line,) = commands(launch("single_node.sh", "--dry-run", "--stages", "search", "my.yaml", cwd=tmp_path))
    assert line[-1] == str(tmp_path / "my.yaml")
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "my.yaml").rename(tmp_path / "runs" / "a" / "config.yaml")
    (line,) = commands(launch("single_node.sh", "--dry-run", "--stages", "search", "runs/a", cwd=tmp_path))
    assert line[-1] == str(tmp_path / "runs" / "a")
    args = ["--hostfile", "hosts", "--dry-run", "--stages", "search", "quickstart"]
    (line,) = commands(launch("multi_node.sh", *args, cwd=tmp_path))
    assert line[line.index("--hostfile") + 1] == str(tmp_path / "hosts") and line[-1] == "quickstart"


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("single_node.sh", ["quickstart", "run.nam=x"], "did you mean name?"),
        ("torchrun.sh", ["--dry-run", "nonsense"], "nonsense: no such recipe"),
        ("docker.sh", ["--dry-run", RECIPE, "supernet.lr=-1"], "supernet.lr=-1"),
        ("slurm.sbatch", ["--dry-run", "--nodes", "3", RECIPE], "1024 is not a multiple of 24 ranks"),
    ],
)
def test_an_error_in_the_recipe_is_found_before_a_launcher_starts(script, args, message):
    done = launch(script, *args)
    assert done.returncode == 2 and "+" not in done.stdout
    assert done.stderr.count("\n") == 1 and message in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "args", "env", "hosts"),
    [
        ("single_node.sh", ["--gpus", "64"], {"HOSTNAME": "big"}, {"big": (0, 63)}),
        ("docker.sh", ["--gpus", "64"], {"HOSTNAME": "big"}, {"container on big": (0, 63)}),
        ("multi_node.sh", ["--hostfile", "hosts"], {}, {f"n{i}": (8 * i, 8 * i + 7) for i in range(8)}),
        ("torchrun.sh", ["--gpus", "32"], {"NODES": "2", "MASTER_ADDR": "n0"}, {"n0": (0, 31), "node 1": (32, 63)}),
        ("slurm.sbatch", ["--nodes=4", "--ntasks-per-node", "16"], {}, {"node 1": (0, 15), "node 4": (48, 63)}),
        ("slurm.sbatch", ["--nodes=8", "--ntasks-per-node=1"], {}, {"node 1": (0, 7), "node 8": (56, 63)}),
    ],
)
def test_a_dry_run_prints_the_plan_of_64_gpus(tmp_path, script, args, env, hosts):
    """Reference: 1024 images over 64 ranks, and the parameters of the supernet that torch counts."""
    (tmp_path / "hosts").write_text("".join(f"n{i} slots=8\n" for i in range(8)))
    words = [RECIPE, "engine.zero=zero2", "supernet.grad_accum_steps=2", "supernet.ema_decay=0"]
    done = launch(script, "--dry-run", *args, *words, cwd=tmp_path, **env, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    for host, (first, last) in hosts.items():
        assert f"\nranks {first} to {last}: {host}\n" in done.stdout
    assert "batch_size 1024 = 64 ranks x grad_accum_steps 2 x 8 images" in done.stdout
    assert "<- engine.zero" in done.stdout and "estimated GiB per GPU, bf16" in done.stdout
    whole = 4 * parameters_of(RECIPE)
    part = -(-whole // 64)  # three states: two moments and a master copy
    line = (
        f"ZeRO 2, bytes per rank: weights {whole:,} (whole), gradients {part:,} (1/64), optimizer states {3 * part:,}"
    )
    assert line in done.stdout


@cache
def parameters_of(recipe: str) -> int:
    config = load(recipe, [])
    with torch.device("meta"):
        net = Supernet(config.space, config.supernet.sharing, config.supernet.private_attention)
    return sum(p.numel() for p in net.parameters())


def test_torchrun():
    env = {"CUDA_VISIBLE_DEVICES": "0,1"}
    lines = commands(launch("torchrun.sh", "--dry-run", "quickstart", "run.seed=1", **env))
    assert [line[line.index("vitas_ds") + 1] for line in lines] == STAGES
    start = ["python", "-m", "vitas_ds.distributed.torchrun", "--nproc-per-node", "2", "--nnodes", "1"]
    assert all(line[:7] == start and "127.0.0.1" in line for line in lines[:4])
    assert all(line[:3] == ["python", "-m", "vitas_ds"] for line in lines[4:])
    env |= {"NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "n1"}
    lines = commands(launch("torchrun.sh", "--dry-run", "quickstart", **env))
    assert len(lines) == 4  # export and report run on the first node
    for i, line in enumerate(lines):
        found = dict(zip(line[3:-4:2], line[4:-3:2], strict=True))
        expected = {"--nnodes": "2", "--node-rank": "1", "--master-addr": "n1", "--master-port": str(29500 + i)}
        assert found == expected | {"--nproc-per-node": "2", "--rdzv-conf": "timeout=1800"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "status", "seconds"),
    [
        ("exit 0", 0, 20),
        ("((RANK != 4)) || { sleep 3; exit 3; }; exec sleep 300", 3, 20),  # the other ranks are killed
        ("((RANK != 4)) || exit 75; sleep 3", 75, 20),  # the other ranks may save
    ],
)
def test_node_starts_and_stops_its_ranks(rank, status, seconds):
    env = {"SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2"}
    report = 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE"'
    start = time.monotonic()
    done = launch("node.sh", "3", "bash", "-c", f"{report}; {rank}", **env)
    assert done.returncode == status and time.monotonic() - start < seconds
    assert sorted(done.stdout.splitlines()) == ["3 0 6 3", "4 1 6 3", "5 2 6 3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_stopped_node_lets_its_ranks_save(tmp_path, number):
    name = number.name.removeprefix("SIG")
    rank = f"trap 'touch {tmp_path}/saved$RANK; exit 75' {name}; touch {tmp_path}/up$RANK; while :; do sleep 0.1; done"
    args = [str(ROOT / "launch" / "node.sh"), "2", "bash", "-c", rank]
    node = subprocess.Popen(args, env={k: v for k, v in os.environ.items() if not k.startswith("SLURM_")})
    while len(list(tmp_path.glob("up*"))) < 2:
        time.sleep(0.05)
    node.send_signal(number)
    assert node.wait(60) == 75
    assert {path.name for path in tmp_path.glob("saved*")} == {"saved0", "saved1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_stop_request_ends_the_connections_to_other_nodes(tmp_path, number):
    """As in multi_node.sh; sleep stands for the launcher."""
    remote = f"touch {tmp_path}/up; exec sleep 60"
    script = f"set -euo pipefail; source launch/lib.sh; start_ranks remote bash -c '{remote}'; echo next stage"
    env = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(["bash", "-c", script], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    process.send_signal(number)
    assert "next stage" not in process.communicate(timeout=30)[0] and process.returncode == 75
    assert [path.name for path in tmp_path.iterdir()] == ["up"]  # no temporary file


def test_multi_node(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    lines = commands(launch("multi_node.sh", "--hostfile", str(hosts), "--dry-run", "vitas_1g_bcnet", MASTER_PORT="77"))
    assert [line[line.index("vitas_ds") + 1] for line in lines] == STAGES
    first = lines[0]
    assert first[first.index("--master_addr") + 1] == "node-a" and first[first.index("--master_port") + 1] == "77"
    hosts.write_text("node-a 8\n")
    done = launch("multi_node.sh", "--hostfile", str(hosts), "--dry-run", "vitas_1g_bcnet")
    assert done.returncode == 2 and "slots=N" in done.stderr


def test_slurm_with_a_substitute_for_scontrol(tmp_path):
    """Two nodes: the first is the master, each stage is one srun, export and report use one task."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$2" = hostnames ] && printf "n7\\nn8\\n"\n')
    (tmp_path / "scontrol").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n[7-8]"}
    done = launch("slurm.sbatch", "--dry-run", RECIPE, "run.seed=1", **env, SLURM_SUBMIT_DIR=str(ROOT))
    lines = commands(done)
    assert "master n7:20041" in done.stdout
    assert "\nranks 0 to 7: n7\nranks 8 to 15: n8\n" in done.stdout
    assert [line[line.index("vitas_ds") + 1] for line in lines] == STAGES
    assert all(line[0] == "srun" for line in lines) and "--ntasks=1" in lines[-1] and "--ntasks=1" not in lines[0]


def test_slurm_with_one_task_per_node():
    lines = commands(launch("slurm.sbatch", "--dry-run", RECIPE, SLURM_CPUS_PER_TASK="12"))
    assert all(line[2] == "--cpus-per-task=12" for line in lines)
    env = {"SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4"}
    lines = commands(launch("slurm.sbatch", "--dry-run", RECIPE, **env))
    for line in lines[:4]:
        assert line[:5] == ["srun", "--kill-on-bad-exit=1", "launch/node.sh", "4", "python"]
    assert all("launch/node.sh" not in line and "--ntasks=1" in line for line in lines[4:])
    lines = commands(launch("slurm.sbatch", "--dry-run", RECIPE, **env | {"SLURM_NTASKS_PER_NODE": "4"}))
    assert all("launch/node.sh" not in line for line in lines)


@pytest.mark.parametrize(
    ("status", "expected", "requeued"),
    [(0, 0, False), (75, 0, True), (143, 0, True), (1, 1, False), (69, 69, False), (137, 69, False)],
)
def test_slurm_requeues_only_after_preemption(tmp_path, status, expected, requeued):
    for name, text in (
        ("srun", f"#!/bin/sh\nexit {status}\n"),
        ("scontrol", f'#!/bin/sh\necho "$@" >>{tmp_path}/called\necho n1\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "41", "SLURM_SUBMIT_DIR": str(ROOT)}
    done = launch("slurm.sbatch", "quickstart", **env)
    assert done.returncode == expected
    called = (tmp_path / "called").read_text() if (tmp_path / "called").exists() else ""
    assert (called == "requeue 41\n") == requeued


def test_docker(tmp_path):
    env = {"WANDB_API_KEY": "secret", "DATA": str(tmp_path / "images"), "RUNS": str(tmp_path / "runs")}
    words = [RECIPE, "run.seed=1"]
    (line,) = commands(launch("docker.sh", "--dry-run", "--stages", "search report", *words, **env))
    assert line[:2] == ["docker", "run"]
    for path, inside, mode in (("images", "data", ":ro"), ("runs", "runs", "")):
        mounts = {f"{tmp_path}/{path}:/opt/vitas_ds/{inside}{mode}", f"{tmp_path}/{path}:{tmp_path}/{path}{mode}"}
        assert mounts <= set(line)
    assert line[line.index("WANDB_API_KEY") - 1] == "--env" and "secret" not in " ".join(line)
    more = {"WANDB_DISABLED": "true", "WANDB_TAGS": "a,b", "WANDB_DIR": "/x", "WANDB_NOTES": ""}
    (other,) = commands(launch("docker.sh", "--dry-run", "--stages", "search", *words, **env, **more))
    passed = {other[i + 1] for i, word in enumerate(other) if word == "--env"}
    assert {"WANDB_API_KEY", "WANDB_DISABLED", "WANDB_TAGS"} <= passed and not passed & {"WANDB_DIR", "WANDB_NOTES"}
    assert line[-5:] == ["launch/single_node.sh", "--stages", "search report", *words]
    inside = [f"data.train={tmp_path}/images/train", "retrain.spec=search:best"]
    done = launch("docker.sh", "--dry-run", RECIPE, *inside, "data.val=/elsewhere/val", **env)
    assert done.returncode == 0 and done.stderr.count("\n") == 1, done.stderr
    assert "warning: data.val=/elsewhere/val lies outside" in done.stderr


def test_slurm_outside_the_checkout(tmp_path):
    done = launch("slurm.sbatch", "r", SLURM_SUBMIT_DIR=str(tmp_path))
    assert (
        done.returncode == 2 and done.stderr == f"slurm.sbatch: {tmp_path}: submit it from the root of the checkout\n"
    )


def test_more_ranks_than_visible_gpus_are_refused():
    done = launch("single_node.sh", "--dry-run", "--gpus", "3", "r", CUDA_VISIBLE_DEVICES="1,4")
    assert done.returncode == 2 and "--gpus 3: CUDA_VISIBLE_DEVICES=1,4 has 2" in done.stderr
    args = ["--dry-run", "--gpus", "4", RECIPE]
    done = launch("single_node.sh", *args, CUDA_VISIBLE_DEVICES="-1")  # ranks on the CPU
    assert done.returncode == 0


def test_docker_mounts_a_recipe_file(tmp_path):
    """The command names the mounted file. Paths are relative to the folder of the caller."""
    (tmp_path / "my.yaml").write_text(MINE)
    env = {"DATA": "images", "CUDA_VISIBLE_DEVICES": "1,3"}
    (line,) = commands(launch("docker.sh", "--dry-run", "--gpus", "2", "my.yaml", cwd=tmp_path, **env))
    assert f"{tmp_path}/my.yaml:/opt/vitas_ds/mounted/my.yaml:ro" in line
    assert f"{tmp_path}/images:/opt/vitas_ds/data:ro" in line and f"{ROOT}/runs:/opt/vitas_ds/runs" in line
    assert line[line.index("--gpus") + 1] == '"device=1,3"'
    assert line[-6:] == ["launch/single_node.sh", "--gpus", "2", "--stages", " ".join(STAGES), line[-1]]
    assert line[-1] == "/opt/vitas_ds/mounted/my.yaml"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["single_node.sh"], "which recipe?"),
        (["single_node.sh", "--bogus", "r"], "--bogus: no such option"),
        (["single_node.sh", "--gpus", "0", "r"], "not a number above 0"),
        (["single_node.sh", "r", "s"], "a second recipe"),
        (["single_node.sh", "--nodes", "2", "r"], "options of sbatch"),
        (["slurm.sbatch", "--nodes", "2", "r"], "before launch/slurm.sbatch"),
        (["slurm.sbatch", "--dry-run", "--nodes", "x", "r"], "--nodes x: not a number above 0"),
        (["single_node.sh", "--dry-run", "r", "--stages", "search serch"], "serch: no such stage; choose from train-"),
        (["single_node.sh", "--dry-run", "r", "--stages", " "], "names no stage"),
        (["docker.sh", "r"], "no such folder"),
        (["torchrun.sh", "--hostfile", "h", "r"], "multi_node.sh"),
        (["node.sh", "0", "ls"], "N is the number of ranks"),
        (["multi_node.sh", "r"], "--hostfile FILE is needed"),
        (["multi_node.sh", "--hostfile", "/no/such", "r"], "no such file"),
        (["slurm.sbatch", "r"], "not inside a Slurm job"),
        (["quickstart.sh", "--bogus"], "--bogus: no such option"),
    ],
)
def test_a_usage_error_is_one_line(args, message):
    done = launch(*args, DATA="/no/such")
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "script",
    ["quickstart.sh", "single_node.sh", "multi_node.sh", "torchrun.sh", "slurm.sbatch", "docker.sh", "test.sh"],
)
def test_help_is_the_comment_at_the_top(script):
    done = launch(script, "--help")
    assert done.returncode == 0 and f"launch/{script}" in done.stdout and "#" not in done.stdout
