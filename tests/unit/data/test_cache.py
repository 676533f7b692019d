"""Cached search images are bitwise equal to uncached ones, for every kind of cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.helpers.digits import write_digits
from vitas_ds.config import Data
from vitas_ds.data.cache import decode_cached
from vitas_ds.data.loader import eval_batches, normalize
from vitas_ds.data.sources import read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError

pytestmark = pytest.mark.slow

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.mark.parametrize("where", ["memory", "device", "file"])
def test_cached_images_equal_uncached_ones(tmp_path: Path, where: str) -> None:
    images = read_folder(write_digits(tmp_path / "digits", 2, 1) / "train")
    data = Data(resize=28, eval_batch_size=7, threads=1, cache=where)
    pixels = decode_cached(images, data, 28, ALONE, tmp_path)
    direct = torch.cat([batch.images for batch in eval_batches(images, data, 28, 7, ALONE)])
    assert torch.equal(normalize(pixels, data), direct)


def test_the_file_is_written_once_and_completely(tmp_path: Path) -> None:
    images = read_folder(write_digits(tmp_path / "digits", 2, 1) / "train")
    data = Data(resize=28, eval_batch_size=7, threads=1, cache="file")
    first = decode_cached(images, data, 28, ALONE, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.u8")
    assert file.stat().st_size == 20 * 3 * 28 * 28
    before = file.stat().st_mtime_ns
    assert torch.equal(decode_cached(images, data, 28, ALONE, tmp_path / "cache"), first)
    assert file.stat().st_mtime_ns == before
    first = first.clone()  # it is a map of the file
    os.truncate(file, 1000)
    file.with_name(f".{file.name}.tmp").symlink_to(tmp_path / "outside")
    assert torch.equal(decode_cached(images, data, 28, ALONE, tmp_path / "cache"), first)
    content = bytearray(file.read_bytes())
    content[999] ^= 16
    file.write_bytes(content)
    file.with_suffix(".sha256").unlink()
    file.with_suffix(".sha256").symlink_to(tmp_path / "outside")
    assert torch.equal(decode_cached(images, data, 28, ALONE, tmp_path / "cache"), first)
    assert not (tmp_path / "outside").exists()


def test_a_file_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    images = read_folder(write_digits(tmp_path / "digits", 2, 1) / "train")
    data = Data(threads=1, cache="file").model_copy(update={"resize": 3_000_000})
    with pytest.raises(UserError, match=r"data.cache=file: the disk of .*cache has .* need 502914.. GiB; lower"):
        decode_cached(images, data, 3_000_000, ALONE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
