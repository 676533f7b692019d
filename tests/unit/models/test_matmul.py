"""Matrix products of oneDNN and MKL, and the choice between them.

References: torch's product of the same matrices, and repeated choices.
"""

import subprocess
import sys

import pytest
import torch

from vitas_ds.models import matmul


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
def test_the_library_for_gradients_is_the_same_on_a_busy_machine():
    """Otherwise, a resumed run would not be bitwise equal."""
    choose = matmul.onednn_is_faster.__wrapped__
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        found = [choose() for _ in range(8)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert found == [choose()] * 8


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_match_torch(gradient, transposed):
    a, b, bias = torch.randn(7, 12), torch.randn(5, 12).T, torch.randn(5)
    b = b if transposed else b.contiguous()
    torch.testing.assert_close(matmul.product(a, b, bias, gradient=gradient), a @ b + bias)
    out = torch.empty(7, 5)
    torch.testing.assert_close(matmul.product(a, b, out=out, gradient=gradient), a @ b)
