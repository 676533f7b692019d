"""A diverging training stops and names the step, and `--replay` computes that step again.

References: the metrics and the checkpoints of the run itself.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, environment, run_commands, stage_command, start_process
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.recipe import load

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, str]:
    """Arguments, folder and output of a run that diverges on two ranks."""
    folder = tmp_path_factory.mktemp("diverged")
    write_digits(folder / "digits")
    args = [
        str(TINY), f"run.dir={folder}/runs", f"data.train={folder}/digits/train", "supernet.lr=1e15",
        "supernet.max_nonfinite=2", "supernet.save_every=1", "supernet.keep=9", "supernet.log_every=1",
    ]  # fmt: skip
    job = start_process(stage_command("train-supernet", args), environment())
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 2, output
    return args, folder / "runs" / "tiny", output


def test_training_stops_and_names_the_step(diverged: tuple[list[str], Path, str]) -> None:
    _, run, output = diverged
    assert "Traceback" not in output
    (line,) = (line for line in output.splitlines() if line.startswith("vitas "))
    print(line)
    found = re.search(r"in 2 steps in a row, the last step (\d+): .* rank.*; subnet embed_dim \d+, depth \d", line)
    assert found and "(1 of 2 in a row): step" in output
    record = json.loads((run / "supernet" / "divergence.json").read_text())
    first, last = record["steps"]
    assert last["step"] == int(found[1]) == first["step"] + 1
    for entry in record["steps"]:
        assert [row["rank"] for row in entry["ranks"]] == [0, 1]
        files = [Path(file) for row in entry["ranks"] for file in row["images"]]
        assert len(files) == 16 and all(file.is_file() for file in files)
        assert spec_from_dict(entry["nets"][0]).image_size == 28
    steps = [int(path.name[5:]) for path in (run / "supernet" / "checkpoints").iterdir()]
    assert max(steps) == first["step"] - 1  # no checkpoint after the first bad step
    assert [path.name for path in (run / "supernet" / "divergence").iterdir()] == [f"step-{max(steps):08d}"]


def test_replay_computes_the_step_and_writes_nothing(diverged: tuple[list[str], Path, str]) -> None:
    args, run, _ = diverged
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    (done,) = run_commands(["train-supernet", *args, "--replay"])
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    record = json.loads((run / "supernet" / "divergence.json").read_text())
    assert f"step {record['steps'][0]['step']}, weights of {run}/supernet/divergence/step-" in done.stdout
    assert len(re.findall(r"rank [01]: loss", done.stdout)) == 2
    assert re.search(r"gradient (nan|inf)", done.stdout)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_replay_repeats_loss_and_norm_of_the_run(diverged: tuple[list[str], Path, str], tmp_path: Path) -> None:
    """Replay a good step of the same run. Reference: its loss and gradient norm in the metrics."""
    args, run, _ = diverged
    record = json.loads((run / "supernet" / "divergence.json").read_text())
    good = {"step": 2, "ranks": [{"rank": rank, "loss": 0, "finite": True, "ids": [0]} for rank in (0, 1)]}
    files = [tmp_path / f"{name}.json" for name in ("without-images", "no-images", "same-images")]
    files[0].write_text(json.dumps(record | {"steps": [good]}))
    for row in good["ranks"]:
        row["images"] = []
    files[1].write_text(json.dumps(record | {"steps": [good]}))
    for rank, row in enumerate(good["ranks"]):
        row["images"] = images_of_step(args, 1)[8 * rank : 8 * rank + 8]
    files[2].write_text(json.dumps(record | {"steps": [good]}))
    invalid, other, done = run_commands(*(["train-supernet", *args, "--replay", str(file)] for file in files))
    assert invalid.returncode == 2 and "not a divergence record" in invalid.stderr
    assert other.returncode == 2 and "this step has other images than in the record" in other.stderr
    assert done.returncode == 0, done.stderr
    losses = [float(x) for x in re.findall(r"rank [01]: loss ([\d.]+)", done.stdout)]
    norms = [float(x) for x in re.findall(r" gradient ([-+e\d.]+)", done.stdout)]
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    (expected,) = (line for line in lines if line["step"] == 2)
    assert sum(losses) / 2 == pytest.approx(expected["loss"], abs=2e-5)
    assert math.hypot(*norms) == pytest.approx(expected["grad_norm"], rel=1e-4)


def images_of_step(args: list[str], step: int) -> list[str]:
    """Return the files of a global batch of 16 images."""
    from vitas_ds.data.sampler import batch_ids
    from vitas_ds.data.sources import hold_out, read_folder

    resolved = load(args[0], args[1:])
    images, _ = hold_out(read_folder(resolved.data.train), resolved.data.search_per_class, resolved.run.seed)
    return [images.file(i) for i in batch_ids(len(images), 1, 16, resolved.run.seed, step).tolist()]
