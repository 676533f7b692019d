"""The installed package is complete, and the CI, hooks, version and pins agree.

References: the files of the checkout, and pip's and PyYAML's reading of the files.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import vitas_ds
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """An unpacked wheel of this checkout. It is built from a copy because setuptools leaves a build/ folder."""
    pytest.importorskip("setuptools", "77")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("vitas_ds", "ds_configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    args = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(source)]
    done = subprocess.run([sys.executable, "-m", "pip", *args], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    assert file.name.startswith(f"vitas_ds-{vitas_ds.__version__}-py3")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(out / "unpacked")
    return out / "unpacked"


@pytest.mark.slow
def test_wheel_contains_every_file_of_the_package(wheel):
    def files(root: Path) -> set[str]:
        found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        return {name for name in found if "__pycache__" not in name and not name.startswith("ds_configs/")}

    assert files(ROOT / "vitas_ds") == files(wheel / "vitas_ds")
    zero = {path.name for path in (ROOT / "ds_configs").glob("*.json")}
    assert zero and zero <= {path.name for path in (wheel / "vitas_ds" / "ds_configs").iterdir()}
    (info,) = wheel.glob("*.dist-info")
    assert "vitas = vitas_ds.__main__:main" in (info / "entry_points.txt").read_text()
    needs = re.findall(r"^Requires-Dist: (\S+?)[<>=]", (info / "METADATA").read_text(), re.MULTILINE)
    expected = re.findall(r"^([\w.-]+)[<>=]", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert set(expected) <= set(needs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "from vitas_ds.__main__ import main; assert main(['config', 'quickstart', 'engine.zero=zero3']) == 0",
        "from vitas_ds.__main__ import main; assert main(['cost', 'vitas-c']) == 0",
        "from vitas_ds.engine.ds_config import zero_names; assert 'zero2' in zero_names()",
        "from vitas_ds.reports import page, run_page; assert 'svg' in page.render('base.html.j2', title='a')",
    ],
)
def test_wheel_works_in_another_folder(wheel, tmp_path, code):
    code = f"import vitas_ds; assert vitas_ds.__file__.startswith({str(wheel)!r}), vitas_ds.__file__\n{code}"
    env = os.environ | {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_workflow_runs_every_part_of_test_sh():
    """The workflow as PyYAML reads it, against the parts that launch/test.sh accepts."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert {"push", "pull_request"} <= set(workflow[True])  # YAML 1.1 reads `on` as true
    assert set(workflow["jobs"]) == {"lint", "unit", "distributed", "long"}
    lowest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert workflow["jobs"]["unit"]["strategy"]["matrix"]["python"] == [lowest, "3.12"]
    for name, job in workflow["jobs"].items():
        *setup, last = job["steps"]
        assert last["run"].startswith(f"launch/test.sh {name}")
        python = next(step["with"]["python-version"] for step in setup if "setup-python" in step.get("uses", ""))
        assert python in (lowest, "${{ matrix.python }}")
    assert workflow["jobs"]["unit"]["steps"][-1]["run"].endswith('-m "not long"')  # no other job runs slow unit tests
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_hooks_use_only_the_tools_in_venv():
    """The hooks as PyYAML reads them. Their pattern for shellcheck is compared with the files in launch/."""
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local" and {hook["language"] for hook in repo["hooks"]} == {"system"}
    tools = {hook["entry"].split()[0] for hook in repo["hooks"]}
    assert tools == {f".venv/bin/{name}" for name in ("ruff", "mypy", "shellcheck", "python")}
    scripts = [path.relative_to(ROOT).as_posix() for path in (ROOT / "launch").iterdir()] + [".ci/run"]
    pattern = next(hook["files"] for hook in repo["hooks"] if hook["id"] == "shellcheck")
    assert {name for name in scripts if re.search(pattern, name)} == {
        name for name in scripts if name.endswith((".sh", ".sbatch", "run"))
    }


def test_version_is_defined_once():
    assert f"## {vitas_ds.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {vitas_ds.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert 'attr = "vitas_ds.__version__"' in (ROOT / "pyproject.toml").read_text()


def test_docker_image_pins_satisfy_the_bounds():
    """constraints.txt pins every named package within its bounds, as the package `packaging` reads them."""
    from packaging.requirements import Requirement

    def read(text: str) -> list[Requirement]:
        return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]

    pins = {pin.name: str(pin.specifier) for pin in read((ROOT / "constraints.txt").read_text())}
    assert all(re.fullmatch(r"==[\w.+]+", pin) for pin in pins.values())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = read((ROOT / "requirements.txt").read_text())
    named += read("\n".join(extras["quickstart"] + extras["export"]))
    for requirement in named:
        pin = pins[requirement.name.lower().replace("_", "-")].removeprefix("==")
        assert requirement.specifier.contains(pin), requirement
    dockerfile = (ROOT / "Dockerfile").read_text()
    installed = re.search(r"--requirement requirements.txt \\\n +(.+)", dockerfile)[1].split()
    expected = {requirement.name for requirement in read("\n".join(extras["quickstart"] + extras["export"]))}
    assert expected <= set(installed) <= set(pins)
