"""Everything but loading works without DALI.

Reference: processes in which ``import nvidia.dali`` fails.
"""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.paths import FIXTURES, ROOT

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "nvidia.dali" or name.startswith("nvidia.dali."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""
USERS = {"vitas_ds.data.dali", "vitas_ds.data.dali_augment", "vitas_ds.data.dali_crop"}


def run_without_dali(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *args], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_all_other_modules_import_without_dali():
    done = run_without_dali("""
import importlib, pkgutil, vitas_ds
failed = []
for module in pkgutil.walk_packages(vitas_ds.__path__, "vitas_ds."):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        failed.append(module.name)
        assert error.name.startswith("nvidia"), error
print(*failed)
""")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - {"vitas_ds.models.kernels_triton"} == USERS


def test_a_stage_that_needs_dali_ends_with_one_line(tree, tmp_path):
    done = run_without_dali(
        "from vitas_ds.__main__ import main; sys.exit(main(sys.argv[1:]))", "train-supernet",
        str(FIXTURES / "tiny.yaml"), f"data.train={tree}", "run.device=cpu", f"run.dir={tmp_path}",
        "space.num_classes=3", "data.search_per_class=2", "supernet.batch_size=4",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vitas train-supernet: NVIDIA DALI, which loads the images, cannot be imported")
