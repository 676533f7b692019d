"""What this machine has and lacks for each stage, with the remedy. Exit status 0 if every stage can run here.

Libraries are tried in processes of their own, doing a little of their real work, so that one that crashes on import
is a row of the table and not the end of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

STAGES = {  # what each stage cannot do without
    "train-supernet": ("packages", "torch", "dali", "deepspeed", "launcher"),
    "search": ("packages", "torch", "dali", "pymoo"),
    "retrain": ("packages", "torch", "dali", "deepspeed", "launcher"),
    "evaluate": ("packages", "torch", "dali"),
    "export": ("packages", "torch"),
    "report": (),
}
INSTALL = "pip install -r requirements.txt"
GB = 1 << 30


@dataclass(frozen=True)
class Row:
    """One finding. ``lacking`` stops the stages that need the part; ``note`` is good to know, and stops nothing."""

    part: str
    state: Literal["ok", "note", "lacking"]
    found: str
    remedy: str = ""


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 if every stage can run, else 1."""
    rows = doctor(Path.cwd())
    print_rows(rows)
    return int(any(missing_parts(stage, rows) for stage in STAGES))


def doctor(folder: Path) -> list[Row]:
    """Every finding about this machine; ``folder`` is where runs would be written."""
    rows = [packages(), torch(), *gpus(), dali(), *deepspeed(), launcher(), pymoo(), wandb()]
    rows += optional()
    return [*rows, cores(), memory(), *shared_memory(), disk(folder)]


def missing_parts(stage: str, rows: list[Row]) -> list[str]:
    """The parts that keep a stage from running."""
    lacking = {row.part for row in rows if row.state == "lacking"}
    return [part for part in STAGES[stage] if part in lacking]


def print_rows(rows: list[Row]) -> None:
    """The findings, then a line for each stage."""
    width = max(len(row.part) for row in rows)
    for row in rows:
        mark = {"ok": "ok", "note": "note", "lacking": "LACKING"}[row.state]
        print(f"{row.part:<{width}}  {mark:<7}  {row.found}")
        if row.remedy:
            print(f"{'':<{width}}           -> {row.remedy}")
    print()
    for stage in STAGES:
        missing = missing_parts(stage, rows)
        print(f"{stage:<14}  {'cannot run: ' + ', '.join(missing) if missing else 'can run'}")


def attempt(code: str, seconds: float = 120) -> tuple[bool, str]:
    """Run ``code`` in a Python of its own: whether it ended well, and the last line that it printed."""
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds, env=env, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {seconds:g} s"
    text = (done.stdout if done.returncode == 0 else done.stderr).strip()
    return done.returncode == 0, text.splitlines()[-1] if text else f"ended with status {done.returncode}"


def _tried(part: str, code: str, remedy: str = INSTALL) -> Row:
    good, text = attempt(code)
    return Row(part, "ok", text) if good else Row(part, "lacking", text, remedy)


def packages() -> Row:
    """Whether each package that we require is installed, in a version that we accept."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        return Row("packages", "lacking", "packaging is not installed, nor can the others be looked at", INSTALL)
    wrong = []
    required = [Requirement(line) for line in requirements()]
    for requirement in required:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    python = ".".join(map(str, sys.version_info[:3]))
    if wrong:
        return Row("packages", "lacking", "; ".join(wrong), INSTALL)
    return Row("packages", "ok", f"Python {python}, {len(required)} packages within their bounds")


def requirements() -> list[str]:
    """What this package needs: as installed, or as the checkout that it runs from says."""
    try:
        lines = metadata.requires("vitas_ds") or []
    except metadata.PackageNotFoundError:
        lines = (Path(__file__).parents[2] / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#") and "extra ==" not in line]


def torch() -> Row:
    """PyTorch computes."""
    return _tried(
        "torch",
        "import torch; assert torch.ones(2, 2).matmul(torch.ones(2, 2)).sum() == 8\n"
        "print(f'{torch.__version__}, built for CUDA {torch.version.cuda}')",
    )


def gpus() -> Iterator[Row]:
    """The GPUs that torch can use. None is no obstacle: everything runs on the CPU, smaller."""
    good, text = attempt(
        "import json, torch\n"
        "p = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]\n"
        "print(json.dumps([[x.name, x.total_memory / 2**30, x.major, x.minor] for x in p]))"
    )
    found = json.loads(text) if good else []
    if found:
        names = ", ".join(f"{name} ({memory:.0f} GiB, sm_{major}{minor})" for name, memory, major, minor in found)
        yield Row("gpu", "ok", f"{len(found)}: {names}")
    elif shutil.which("nvidia-smi"):
        driver = "the driver is installed, but torch finds no GPU"
        yield Row("gpu", "note", driver, "the driver must support CUDA 13 (580 or newer); see nvidia-smi")
    else:
        yield Row("gpu", "note", "none: everything runs on the CPU, with gloo", "a GPU for ImageNet-sized recipes")


def dali() -> Row:
    """DALI decodes a JPEG."""
    return _tried(
        "dali",
        "import numpy as np, torch, nvidia.dali as dali\n"
        "from nvidia.dali import fn\n"
        "from torchvision.io import encode_jpeg\n"
        "jpeg = encode_jpeg(torch.full((3, 8, 8), 128, dtype=torch.uint8)).numpy()\n"
        "pipe = dali.Pipeline(batch_size=1, num_threads=1, device_id=None)\n"
        "with pipe: pipe.set_outputs(fn.decoders.image(fn.external_source(source=lambda: [jpeg], batch=True)))\n"
        "pipe.build(); image = np.asarray(pipe.run()[0][0])\n"
        "assert image.shape == (8, 8, 3) and abs(int(image.mean()) - 128) < 3, image\n"
        "print(dali.__version__ + ', decodes JPEG')",
    )


def deepspeed() -> Iterator[Row]:
    """DeepSpeed imports; whether its fused ops are there or could be compiled (our optimizer does not ask for them)."""
    good, text = attempt(
        "import json, os, sys, contextlib\n"
        "with contextlib.redirect_stdout(sys.stderr):\n"
        "    import deepspeed\n"
        "    from deepspeed.git_version_info import installed_ops\n"
        "print(json.dumps([deepspeed.__version__, bool(installed_ops.get('fused_adam'))]))"
    )
    if not good:
        yield Row("deepspeed", "lacking", text, INSTALL)
        return
    version, prebuilt = json.loads(text)
    yield Row("deepspeed", "ok", version)
    if prebuilt:
        yield Row("fused ops", "ok", "DeepSpeed's FusedAdam is compiled ahead")
    elif nvcc := shutil.which("nvcc"):
        yield Row("fused ops", "ok", f"DeepSpeed's are compiled when asked for, with {nvcc}")
    else:
        yield Row("fused ops", "ok", "DeepSpeed's cannot be compiled (no nvcc); training uses torch's fused AdamW")


def launcher() -> Row:
    """The deepspeed command of this environment; pdsh for several nodes."""
    command = Path(sys.executable).with_name("deepspeed")
    if not command.is_file():
        return Row("launcher", "lacking", f"{command} is missing", INSTALL)
    if not shutil.which("pdsh"):
        return Row("launcher", "ok", f"{command}; several nodes over ssh would need pdsh (slurm and torchrun do not)")
    return Row("launcher", "ok", f"{command}, pdsh for several nodes")


def pymoo() -> Row:
    """pymoo runs a generation."""
    return _tried(
        "pymoo",
        "import pymoo\n"
        "from pymoo.algorithms.soo.nonconvex.ga import GA\n"
        "from pymoo.optimize import minimize\n"
        "from pymoo.problems import get_problem\n"
        "result = minimize(get_problem('sphere', n_var=2), GA(pop_size=8), ('n_gen', 2), seed=1)\n"
        "assert result.F is not None\n"
        "print(pymoo.__version__)",
    )


def wandb() -> Row:
    """W&B, which is never needed."""
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError:
        return Row("wandb", "note", "not installed; metrics.jsonl is the record", INSTALL)
    if os.environ.get("WANDB_API_KEY"):
        return Row("wandb", "ok", f"{version}, online")
    return Row("wandb", "ok", f"{version}, offline; online with WANDB_API_KEY")


OPTIONAL = {  # packages that a part of a stage asks for -> what that part is
    "onnx": "export.onnx, export.int8", "onnxscript": "export.onnx", "onnxruntime": "export.onnx, predict --onnx",
    "timm": "checking export/timm/ against timm itself", "wandb-workspaces": "launch/wandb_dashboard.py",
    "huggingface-hub": "sending export/ to the Hugging Face hub",
}  # fmt: skip
EXTRA = ("onnx", "onnxscript", "onnxruntime", "timm")  # what pip install -e '.[export]' brings


def optional() -> Iterator[Row]:
    """Packages that no stage needs, and some of its options do: which are there, in which version."""
    for name, what in OPTIONAL.items():
        remedy = "pip install -e '.[export]'" if name in EXTRA else f"pip install {name}"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Row(name, "note", f"not installed; for {what}", remedy)
            continue
        bounds = bounds_of(name)
        if bounds and not _within(version, bounds):
            yield Row(name, "note", f"{version} is not {bounds}; for {what}", remedy)
        else:
            yield Row(name, "ok", f"{version}, for {what}")


def bounds_of(package: str) -> str:
    """The versions of an optional package that this one asks for; empty where it does not say."""
    try:
        from packaging.requirements import Requirement

        lines = [Requirement(line) for line in metadata.requires("vitas_ds") or []]
    except (metadata.PackageNotFoundError, ModuleNotFoundError):
        return ""
    return next((str(one.specifier) for one in lines if one.name == package and one.marker), "")


def _within(version: str, bounds: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(bounds).contains(version, prereleases=True)


def cores() -> Row:
    """Cores that this process may use; below four a GPU waits for images."""
    count = len(os.sched_getaffinity(0))
    return Row("cores", "ok" if count > 1 else "note", f"{count}", "" if count > 1 else "two ranks share one core")


def memory() -> Row:
    """Memory of the machine, or of the container where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    small = total < 6 * GB
    return Row("memory", "note" if small else "ok", f"{total / GB:.0f} GiB", "a rank takes 1 to 2 GiB" if small else "")


def shared_memory() -> Iterator[Row]:
    """/dev/shm, through which NCCL's ranks of a node talk; containers give 64 MB unless told."""
    if Path("/dev/shm").is_dir():
        free = shutil.disk_usage("/dev/shm").free
        remedy = "for several GPUs in a container: docker run --shm-size 16g" if free < GB else ""
        yield Row("shared memory", "note" if remedy else "ok", f"{free / GB:.1f} GiB free", remedy)


def disk(folder: Path) -> Row:
    """Room for runs: a checkpoint of the 1G supernet takes about 1.5 GB, and some are kept."""
    free = shutil.disk_usage(folder).free
    small = free < 10 * GB
    remedy = "checkpoints of the large recipes take several GB: run.dir=..." if small else ""
    return Row("disk", "note" if small else "ok", f"{free / GB:.0f} GiB free in {folder}", remedy)
