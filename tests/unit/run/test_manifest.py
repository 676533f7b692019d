"""Facts of a start for the manifest.

Reference: torch.
"""

import torch

from vitas_ds.run.manifest import gpu_of


def test_the_gpu_of_a_job():
    expected = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    assert gpu_of("auto") == expected and gpu_of("cpu") == {}
