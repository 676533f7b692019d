"""Files of ``torch.save`` that need more memory than they have bytes. Reference: archives built with ``zipfile``."""

from __future__ import annotations

import resource
import zipfile
from pathlib import Path

import pytest
import torch

from vitas_ds.errors import UserError
from vitas_ds.export.first_release import import_first_release
from vitas_ds.run.torch_files import check_sizes, check_zip


def repack(source: Path, target: Path, compression: int, **other: bytes) -> Path:
    """Copy an archive, with other contents of some entries."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, other.get(Path(name).name, old.read(name)))
    return target


def test_files_of_torch_pass(tmp_path: Path) -> None:
    for legacy in (False, True):
        file = tmp_path / f"{legacy}.pt"
        tensor = torch.randn(1000)
        content = {"a": tensor, "view": tensor[10:20], "row": tensor.view(10, 100).t(), "empty": torch.empty(0)}
        torch.save({"model": content, "list": [content]}, file, _use_new_zipfile_serialization=not legacy)
        check_zip(file, checksums=True)
        check_sizes(file, torch.load(file, weights_only=True))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    torch.save({"model": {"x": torch.zeros(10_000_000)}}, file)
    bomb = repack(file, tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UserError, match=rf"^{bomb}: not a file of torch.save, its content is compressed$"):
        import_first_release("vitas-c", bomb)
    check_zip(repack(file, tmp_path / "stored.pt", zipfile.ZIP_STORED), checksums=True)


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6)])
def test_a_tensor_that_repeats_its_elements_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = tmp_path / "a.pt"
    torch.save({"model": {"x": torch.zeros(1).expand(shape)}}, file)
    assert file.stat().st_size < 2000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"^{file}: a tensor of shape 1000000.* has 4 bytes of data$"):
        import_first_release("vitas-c", file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**12,))
    with pytest.raises(UserError, match="a tensor of shape 1000000000000 is sparse"):
        check_sizes(tmp_path / "a.pt", [{"x": (sparse,)}])


def test_a_truncated_archive(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    torch.save({"model": {"x": torch.zeros(1000)}}, file)
    content = bytearray(file.read_bytes())
    content[-30:-26] = b"\xff\xff\xff\xff"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{file}: "):
        import_first_release("vitas-c", file)
