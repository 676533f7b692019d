"""``vitas doctor``: check whether this machine can run each stage, and print a fix for each missing part.

Each library runs a small piece of work in its own process: a library that crashes on import becomes a row of the table
and does not end the command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitas_ds.distributed import host
from vitas_ds.distributed.supervisor import die_with_parent
from vitas_ds.errors import shorten

if TYPE_CHECKING:  # doctor also runs where packaging is not installed
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

STAGES = {  # parts that each stage needs
    "train-supernet": ("packages", "torch", "dali", "deepspeed", "launcher"),
    "search": ("packages", "torch", "dali", "pymoo"),
    "retrain": ("packages", "torch", "dali", "deepspeed", "launcher"),
    "evaluate": ("packages", "torch", "dali"),
    "export": ("packages", "torch"),
    "report": ("packages", "torch"),
}
INSTALL = "pip install -r requirements.txt"
GB = 1 << 30

PROBES = {  # part -> code that uses the library and prints its version
    "torch": (
        "import torch; assert torch.ones(2, 2).matmul(torch.ones(2, 2)).sum() == 8\n"
        "print(f'{torch.__version__}, built for CUDA {torch.version.cuda}')"
    ),
    "dali": (
        "import numpy as np, torch, nvidia.dali as dali\n"
        "from nvidia.dali import fn\n"
        "from torchvision.io import encode_jpeg\n"
        "jpeg = encode_jpeg(torch.full((3, 8, 8), 128, dtype=torch.uint8)).numpy()\n"
        "pipe = dali.Pipeline(batch_size=1, num_threads=1, device_id=None)\n"
        "with pipe: pipe.set_outputs(fn.decoders.image(fn.external_source(source=lambda: [jpeg], batch=True)))\n"
        "pipe.build(); image = np.asarray(pipe.run()[0][0])\n"
        "assert image.shape == (8, 8, 3) and abs(int(image.mean()) - 128) < 3, image\n"
        "print(dali.__version__ + ', decodes JPEG')"
    ),
    "pymoo": (
        "import pymoo\n"
        "from pymoo.algorithms.soo.nonconvex.ga import GA\n"
        "from pymoo.optimize import minimize\n"
        "from pymoo.problems import get_problem\n"
        "result = minimize(get_problem('sphere', n_var=2), GA(pop_size=8), ('n_gen', 2), seed=1)\n"
        "assert result.F is not None\n"
        "print(pymoo.__version__)"
    ),
}
STAGES_PROBE = (  # imports each stage as a start does
    "import contextlib, importlib, json, sys\n"
    "failed = {}\n"
    "with contextlib.redirect_stdout(sys.stderr):\n"
    "    for stage in sys.argv[1:]:\n"
    "        try: importlib.import_module('vitas_ds.stages.' + stage.replace('-', '_'))\n"
    "        except Exception as error: failed[stage] = ' '.join(str(error).split())[:100]\n"
    "print(json.dumps(failed))"
)
GPU_PROBE = (
    "import json, torch\n"
    "p = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]\n"
    "print(json.dumps([[x.name, x.total_memory / 2**30, x.major, x.minor] for x in p]))"
)
DEEPSPEED_PROBE = (
    "import json, os, sys, contextlib\n"
    "with contextlib.redirect_stdout(sys.stderr):\n"
    "    import deepspeed\n"
    "    from deepspeed.git_version_info import installed_ops\n"
    "print(json.dumps([deepspeed.__version__, bool(installed_ops.get('fused_adam'))]))"
)
OPTIONAL = {  # package -> the options that need it
    "onnx": "export.onnx, export.int8", "onnxscript": "export.onnx",
    "onnxruntime": "export.onnx, predict --onnx, search.latency_runtime",
    "timm": "checking export/timm/ against timm itself", "wandb-workspaces": "launch/wandb_dashboard.py",
    "huggingface-hub": "export --push-to-hub, hf://NAME", "tensorboard": "tracking.tensorboard",
}  # fmt: skip
EXTRA = {  # package -> the extra of pip install -e '.[EXTRA]'
    "onnx": "export", "onnxscript": "export", "onnxruntime": "export", "timm": "export",
    "huggingface-hub": "hub", "tensorboard": "tensorboard",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One finding: ``missing`` blocks the stages that need the part, ``note`` blocks nothing."""

    part: str
    state: Literal["ok", "note", "missing"]
    found: str
    fix: str = ""


def run(args: argparse.Namespace) -> int:
    """Print the table; return 0 if every stage can run, else 1."""
    rows = doctor(Path.cwd())
    print_rows(rows)
    return int(any(missing_parts(stage, rows) for stage in STAGES))


def doctor(folder: Path) -> list[Row]:
    """Return all findings about this machine; ``folder`` is where runs will be written."""
    rows = [packages(), probe_row("torch"), *gpus(), probe_row("dali"), *deepspeed(), launcher(), probe_row("pymoo")]
    rows += stages()
    return [*rows, wandb(), *optional(), cores(), memory(), *shared_memory(), disk(folder)]


def missing_parts(stage: str, rows: list[Row]) -> list[str]:
    """Return the missing parts among those of a stage."""
    missing = {row.part for row in rows if row.state == "missing"}
    return [part for part in (*STAGES[stage], f"start of {stage}") if part in missing]


def print_rows(rows: list[Row]) -> None:
    """Print the findings, then one line per stage."""
    width = max(len(row.part) for row in rows)
    for row in rows:
        state = "MISSING" if row.state == "missing" else row.state
        print(f"{row.part:<{width}}  {state:<7}  {row.found}")
        if row.fix:
            print(f"{'':<{width}}           -> {row.fix}")
    print()
    for stage in STAGES:
        missing = missing_parts(stage, rows)
        print(f"{stage:<14}  {'cannot run: ' + ', '.join(missing) if missing else 'can run'}")


def stages() -> Iterator[Row]:
    """Start each stage as far as its imports, which is more than the list of its parts says."""
    success, text = probe(STAGES_PROBE, args=[*STAGES])
    failed = json.loads(text) if success else dict.fromkeys(STAGES, text)
    for stage, reason in failed.items():
        yield Row(f"start of {stage}", "missing", reason, INSTALL)
    if not failed:
        yield Row("stages", "ok", "all start")


def probe(code: str, seconds: float = 120, args: Sequence[str] = ()) -> tuple[bool, str]:
    """Run ``code`` in a Python process of its own, which ends with this one.

    Returns:
        Whether it succeeded, and its last line of output, or the line of its error.
    """
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=seconds, env=env, check=False,
            preexec_fn=die_with_parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"no answer within {seconds:g} s"
    if done.returncode == 0:
        return True, (done.stdout.strip().splitlines() or [""])[-1]
    lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return False, shorten((errors or lines)[-1], 200)


def probe_row(part: str) -> Row:
    """Return the result of a part's probe."""
    success, text = probe(PROBES[part])
    return Row(part, "ok", text) if success else Row(part, "missing", text, INSTALL)


def packages() -> Row:
    """Check that every required package is installed in an accepted version."""
    try:
        required = [r for r in declared_requirements() if r.marker is None]
    except ModuleNotFoundError:
        return Row("packages", "missing", "packaging is not installed; other packages cannot be checked", INSTALL)
    problems = [problem for r in required if (problem := version_problem(r.name, r.specifier))]
    if problems:
        return Row("packages", "missing", "; ".join(problems), INSTALL)
    python = ".".join(map(str, sys.version_info[:3]))
    return Row("packages", "ok", f"Python {python}, {len(required)} packages in accepted versions")


def declared_requirements() -> list[Requirement]:
    """Return the requirements of the installed package with its extras, else those of the checkout without extras."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("vitas_ds") or []
    except metadata.PackageNotFoundError:
        lines = (Path(__file__).parents[2] / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def version_problem(package: str, accepted: SpecifierSet | None) -> str:
    """Describe the problem with the installed version of a package; empty if there is none."""
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"{package} is not installed"
    if accepted is None or accepted.contains(version, prereleases=True):
        return ""
    return f"{package} {version} is not {accepted}"


def gpus() -> Iterator[Row]:
    """List the GPUs that torch can use. Without a GPU every stage still runs on the CPU."""
    success, text = probe(GPU_PROBE)
    found = json.loads(text) if success else []
    if found:
        names = ", ".join(f"{name} ({memory:.0f} GiB, sm_{major}{minor})" for name, memory, major, minor in found)
        yield Row("gpu", "ok", f"{len(found)}: {names}")
    elif shutil.which("nvidia-smi"):
        fix = "the driver must support CUDA 13 (580 or newer); see nvidia-smi"
        yield Row("gpu", "note", "the driver is installed, but torch finds no GPU", fix)
    else:
        yield Row("gpu", "note", "none: everything runs on the CPU, with gloo", "a GPU for ImageNet-sized recipes")


def deepspeed() -> Iterator[Row]:
    """Check the import, and whether fused ops exist or can be compiled; our optimizer does not use them."""
    success, text = probe(DEEPSPEED_PROBE)
    if not success:
        yield Row("deepspeed", "missing", text, INSTALL)
        return
    version, prebuilt = json.loads(text)
    yield Row("deepspeed", "ok", version)
    if prebuilt:
        yield Row("fused ops", "ok", "DeepSpeed's FusedAdam is prebuilt")
    elif nvcc := shutil.which("nvcc"):
        yield Row("fused ops", "ok", f"DeepSpeed compiles them on demand with {nvcc}")
    else:
        yield Row("fused ops", "ok", "DeepSpeed cannot compile them (no nvcc); training uses torch's fused AdamW")


def launcher() -> Row:
    """Check the deepspeed command of this environment, and pdsh, which it needs for several nodes."""
    command = Path(sys.executable).with_name("deepspeed")
    if not command.is_file():
        return Row("launcher", "missing", f"{command} is missing", INSTALL)
    if not shutil.which("pdsh"):
        return Row("launcher", "ok", f"{command}; several nodes over ssh need pdsh (slurm and torchrun do not)")
    return Row("launcher", "ok", f"{command}, pdsh for several nodes")


def wandb() -> Row:
    """Check W&B, which no stage needs."""
    if version_problem("wandb", None):
        return Row("wandb", "note", "not installed; metrics are only in metrics.jsonl", INSTALL)
    online = "online" if os.environ.get("WANDB_API_KEY") else "offline; online with WANDB_API_KEY"
    return Row("wandb", "ok", f"{metadata.version('wandb')}, {online}")


def optional() -> Iterator[Row]:
    """Check the packages that only some options need."""
    try:
        accepted = {r.name: r.specifier for r in declared_requirements() if r.marker}
    except ModuleNotFoundError:
        accepted = {}
    for package, options in OPTIONAL.items():
        fix = f"pip install -e '.[{EXTRA[package]}]'" if package in EXTRA else f"pip install {package}"
        problem = version_problem(package, accepted.get(package))
        if problem:
            yield Row(package, "note", f"{problem}; for {options}", fix)
        else:
            yield Row(package, "ok", f"{metadata.version(package)}, for {options}")


def cores() -> Row:
    """Count the cores that this process may use."""
    count = host.cores()
    return Row("cores", "ok" if count > 1 else "note", f"{count}", "" if count > 1 else "two ranks share one core")


def memory() -> Row:
    """Return the memory of the machine, or the limit of the container or job if it is lower."""
    total, free = host.memory(), host.free_memory()
    low = free < 6 * GB
    found = f"{total / GB:.1f} GiB, {free / GB:.1f} GiB free"
    return Row("memory", "note" if low else "ok", found, "a rank takes 1 to 2 GiB" if low else "")


def shared_memory() -> Iterator[Row]:
    """Check /dev/shm, which NCCL uses between the ranks of a node; the default of a container is 64 MB."""
    free = host.free_shared_memory()
    fix = "for several GPUs in a container: docker run --shm-size 16g" if free < GB else ""
    yield Row("shared memory", "note" if fix else "ok", f"{free / GB:.1f} GiB free in {host.SHM}", fix)


def disk(folder: Path) -> Row:
    """Check the space for runs: a checkpoint of the 1G supernet takes about 1.5 GB, and several are kept."""
    free = shutil.disk_usage(folder).free
    fix = "checkpoints of the large recipes take several GB: run.dir=..." if free < 10 * GB else ""
    return Row("disk", "note" if fix else "ok", f"{free / GB:.0f} GiB free in {folder}", fix)
