"""Record the numbers of short runs, or compare them with recorded ones: a refactoring must not change a single bit.

    python tests/golden/record.py            # compare with values.json; exit status 1 if a number differs
    python tests/golden/record.py --write    # record, after an intended change of numbers

It runs the stages from the command line on 240 digits: 20 steps of train-supernet for each sharing rule and the
sandwich rule, a search, 20 steps of retrain, an export; then training with two ranks under ZeRO 0 to 3. It takes about
ten minutes on two cores. The values hold for one machine, torch version and thread count, which values.json names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
VALUES = Path(__file__).with_name("values.json")
sys.path.insert(0, str(ROOT))
MODES = {
    "bilateral": ["supernet.sharing=bilateral"],
    "ordinal": ["supernet.sharing=ordinal"],
    "cyclic": ["supernet.sharing=cyclic"],
    "sandwich": ["supernet.sharing=bilateral", "supernet.sampling=sandwich", "supernet.distill=true"],
}
SETTINGS = [
    "space.depth=3", "data.search_per_class=4", "data.threads=1", "tracking.wandb=disabled", "run.device=cpu",
    "supernet.epochs=4", "supernet.batch_size=40", "supernet.log_every=1", "supernet.warmup_epochs=1",
    "supernet.ema_decay=0.9", "supernet.mixing.cutmix=1.0", "search.population=6", "search.generations=3",
    "search.macs=[0.3e6,1.2e6]", "search.racing=0.9", "retrain.epochs=4", "retrain.batch_size=48",
    "retrain.log_every=1", "retrain.warmup_epochs=1", "retrain.drop_path_rate=0.1", "retrain.mixing.mixup=0.8",
    "retrain.augment.rand_augment=rand-m9-mstd0.5-inc1", "retrain.augment.color_jitter=0.3",
]  # fmt: skip
SPEC = {
    "image_size": 28, "patch_size": 7, "embed_dim": 72, "num_classes": 10,
    "layers": [{"num_heads": 2, "qkv_dim": 96, "mlp_dim": 144}, {"num_heads": 4, "qkv_dim": 192, "mlp_dim": 96}],
}  # fmt: skip
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
LIMIT = 300  # seconds per stage


def start(words: list[str], **rank: str) -> subprocess.Popen[str]:
    """Start a command of vitas_ds in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "vitas_ds", *words], env=os.environ | ENVIRONMENT | rank, cwd=ROOT, text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run(words: list[str], ranks: int = 1) -> str:
    """Run a stage with some number of processes and return the output of rank 0."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    of_rank = [shared | {"RANK": str(r), "LOCAL_RANK": str(r)} if ranks > 1 else {} for r in range(ranks)]
    jobs = [start(words, **env) for env in of_rank]
    try:
        outputs = [job.communicate(timeout=LIMIT)[0] for job in jobs]
    finally:
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    for job, output in zip(jobs, outputs, strict=True):
        if job.returncode:
            sys.exit(f"{' '.join(words)} ended with {job.returncode}:\n{output}")
    return outputs[0]


def losses(folder: Path, stage: str) -> list[list[float]]:
    """Return loss, learning rate and gradient norm of each step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[row["loss"], row["lr"], row["grad_norm"]] for row in rows if row["stage"] == stage and "loss" in row]


def digest(path: Path) -> str:
    """Return the SHA-256 of the tensors of a file, in the order of their names."""
    tensors, total = load_file(path), hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name} {tuple(tensors[name].shape)}".encode() + tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def trained(folder: Path, stage: str, weights: Path) -> dict[str, Any]:
    """Return the values of a training: its steps and the digest of its weights."""
    return {"steps": losses(folder, stage), "weights": digest(weights)}


def ledger(folder: Path) -> list[list[Any]]:
    """Return spec, MACs, score and generation of each candidate."""
    rows = [json.loads(line) for line in (folder / "search" / "ledger.jsonl").read_text().splitlines()]
    return [[row[name] for name in ("spec", "macs", "score", "generation")] for row in rows if "spec" in row]


def logits(folder: Path) -> list[list[float]]:
    """Return the logits of the exported model for four fixed images."""
    import vitas_ds

    model = vitas_ds.load(folder / "export")
    images = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(images).tolist()


def one_process(folder: Path, words: list[str]) -> dict[str, Any]:
    """Run all stages of every mode in one process."""
    values: dict[str, Any] = {}
    for mode, extra in MODES.items():
        these, home = [*words, *extra, f"run.name={mode}"], folder / mode
        for stage in ("train-supernet", "search", "retrain", "evaluate", "export"):
            run([stage, *these])
        values[mode] = {
            "train-supernet": trained(home, "train-supernet", home / "supernet" / "weights.safetensors"),
            "search": ledger(home),
            "retrain": trained(home, "retrain", home / "retrain" / "model" / "model.safetensors"),
            "top1": json.loads((home / "summary.json").read_text())["evaluate"]["top1"],
            "logits": logits(home),
        }
        print(f"{mode}: done", flush=True)
    return values


def two_ranks(folder: Path, words: list[str]) -> dict[str, Any]:
    """Run both trainings with two ranks under ZeRO 0 to 3."""
    spec = folder / "spec.json"
    spec.write_text(json.dumps(SPEC))
    values: dict[str, Any] = {}
    for zero in ("zero0", "zero1", "zero2", "zero3"):
        for mode, extra in MODES.items():
            name, home = f"{zero}-{mode}", folder / f"{zero}-{mode}"
            these = [*words, *extra, f"run.name={name}", f"engine.zero={zero}", f"retrain.spec={spec}"]
            run(["train-supernet", *these], ranks=2)
            values[name] = trained(home, "train-supernet", home / "supernet" / "weights.safetensors")
            if mode == "ordinal":
                run(["retrain", *these], ranks=2)
                values[f"{zero}-retrain"] = trained(home, "retrain", home / "retrain" / "model" / "model.safetensors")
        print(f"{zero}: done", flush=True)
    return values


def machine() -> dict[str, str]:
    """Return the properties of the machine behind the values."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {"cpu": names[0].partition(": ")[2], "torch": torch.__version__, "python": platform.python_version()}


def record() -> dict[str, Any]:
    """Run everything in a temporary folder and return the values."""
    from tests.helpers.digits import write_digits

    with tempfile.TemporaryDirectory() as scratch:
        images, runs = write_digits(Path(scratch) / "images"), Path(scratch) / "runs"
        runs.mkdir()
        words = [
            "quickstart",
            f"run.dir={runs}",
            f"data.train={images / 'train'}",
            f"data.val={images / 'val'}",
            *SETTINGS,
        ]
        return {
            "machine": machine(),
            "config quickstart": yaml.safe_load(run(["config", "quickstart"])),
            "one process": one_process(runs, words),
            "two ranks": two_ranks(runs, words),
        }


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return a line for each place where two recorded values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [line for name in names for line in differences(old.get(name), new.get(name), f"{where}/{name}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}/{i}")]
    return [] if old == new else [f"{where}: {str(old)[:60]} recorded, now {str(new)[:60]}"]


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the values instead of comparing them")
    write, values = parser.parse_args().write, record()
    if write:
        VALUES.write_text(json.dumps(values, indent=1) + "\n")
        print(f"wrote {VALUES}")
        return 0
    found = differences(json.loads(VALUES.read_text()), values)
    print("\n".join(found[:40]) or "all numbers are equal")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
