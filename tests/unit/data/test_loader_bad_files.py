"""Bad and unusual files: the result of scan, and the behavior of training and evaluation.

References: files damaged on purpose, Pillow and torchvision, and a second run.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.helpers.photos import cpu_rank, photo_crop, take
from vitas_ds.config import Augment, Data
from vitas_ds.data import loader, scan
from vitas_ds.data.sources import ImageSet, read_folder, write_list
from vitas_ds.errors import UserError

PHOTO = photo_crop(np.random.default_rng(5), 320, 240)


def jpeg(path, **options):
    PHOTO.save(path, format="JPEG", quality=90, **options)
    return path.read_bytes()


def truncate(path):
    content = jpeg(path)
    path.write_bytes(content[: len(content) // 2])


def overwrite(path, data, **options):
    content = bytearray(jpeg(path, **options))
    content[len(content) // 2 : len(content) // 2 + len(data)] = data
    path.write_bytes(content)


def truncated_png(path):
    PHOTO.save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:9000])


def damaged_png(path):
    PHOTO.save(path, format="PNG")
    content = bytearray(path.read_bytes())
    content[9000:9010] = bytes(10)
    path.write_bytes(content)


def truncated_bmp(path):
    PHOTO.save(path, format="BMP")
    path.write_bytes(path.read_bytes()[:9000])


def save_rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg(path, exif=exif)


BAD = {  # name: (how to write the file, message of scan, whether DALI refuses it)
    "empty": (lambda p: p.write_bytes(b""), "empty", True),
    "text": (lambda p: p.write_text("not an image\n" * 30), "not decodable", True),
    "cut in half": (truncate, "truncated: no end marker", True),
    "end marker lost": (lambda p: p.write_bytes(jpeg(p)[:-2]), "truncated: no end marker", True),
    "cut header": (lambda p: p.write_bytes(jpeg(p)[:100]), "truncated in the header", True),
    "block of noise": (lambda p: overwrite(p, np.random.default_rng(0).bytes(4096)), "damaged: stray marker", False),
    "block of zeros": (lambda p: overwrite(p, bytes(512)), "not decodable: Corrupt JPEG data", False),
    "progressive, zeros": (lambda p: overwrite(p, bytes(512), progressive=True), "not decodable: Corrupt", False),
    "half a png": (truncated_png, "truncated: no end chunk", True),
    "damaged png": (damaged_png, "damaged: wrong checksum", True),
    "half a bmp": (truncated_bmp, "not decodable", True),
    "gif": (lambda p: PHOTO.save(p, format="GIF"), "not decodable", True),
    "dangling link": (lambda p: p.symlink_to("nowhere.jpg"), "No such file", True),
}
WHOLE = Augment(scale=(1.0, 1.0), ratio=(0.01, 100))  # the whole image: a crop above the truncation could be decoded
UNUSUAL = {
    "gray": lambda p: PHOTO.convert("L").save(p),
    "cmyk": lambda p: PHOTO.convert("CMYK").save(p),
    "progressive": lambda p: jpeg(p, progressive=True),
    "restarts": lambda p: jpeg(p, restart_marker_blocks=3),
    "png inside": lambda p: PHOTO.save(p, format="PNG"),
    "palette": lambda p: PHOTO.convert("P").save(p, format="PNG"),
    "rgba": lambda p: PHOTO.convert("RGBA").save(p, format="PNG"),
    "bmp": lambda p: PHOTO.save(p, format="BMP"),
    "webp": lambda p: PHOTO.save(p, format="WEBP", lossless=True),
    "1x1": lambda p: PHOTO.resize((1, 1)).save(p),
    "one color": lambda p: Image.new("RGB", (64, 64), (9, 200, 30)).save(p, optimize=True),
    "bytes after the end": lambda p: p.write_bytes(jpeg(p) + bytes(99)),
    "naïve ☃ name": jpeg,
    "exif": save_rotated,
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("zoo")
    for folder, makers in (("bad", {k: v[0] for k, v in BAD.items()}), ("unusual", UNUSUAL)):
        (root / folder).mkdir()
        for name, make in makers.items():
            make(root / folder / f"{name}.JPEG")
    return root


@pytest.fixture(scope="module")
def found(zoo):
    steps = []
    found = dict(scan.scan(zoo, 1, progress=lambda done, total: steps.append((done, total))))
    assert steps[-1] == (len(BAD) + len(UNUSUAL),) * 2
    return found


@pytest.mark.parametrize("name", BAD)
def test_scan_finds_bad_files(zoo, found, name):
    assert found[str(zoo / "bad" / f"{name}.JPEG")].startswith(BAD[name][1])


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_images_equal_torchvision(zoo, found, name, data):
    path = zoo / "unusual" / f"{name}.JPEG"
    assert str(path) not in found
    images = ImageSet(str(path.parent), (path.name,), np.zeros(1, int), ("x",))
    image = Image.open(path).convert("RGB")  # the loader of torchvision and timm; it ignores EXIF
    expected = v2.functional.pil_to_tensor(image).float()
    if expected.shape[1:] == (240, 320):
        expected = v2.functional.center_crop(expected, [240, 240])
        data = data.model_copy(update={"resize": 240})
        (ours,) = loader.decode_all(images, data, 240, cpu_rank())
        assert torch.equal(ours.float(), expected)  # without resizing: bitwise
    else:
        data = data.model_copy(update={"resize": 32})
        (ours,) = loader.decode_all(images, data, 32, cpu_rank())
        assert (ours.float() - expected[:, :1, :1]).abs().max() <= 1


@pytest.mark.slow
def test_scan_with_decode_finds_subtle_damage(tmp_path):
    overwrite(tmp_path / "whole.jpg", b"")
    overwrite(tmp_path / "damaged.jpg", np.random.default_rng(0).integers(1, 255, 60, dtype=np.uint8).tobytes())
    assert scan.scan(tmp_path, 1) == []
    ((path, reason),) = scan.scan(tmp_path, 1, decode=True)
    assert path == str(tmp_path / "damaged.jpg") and "Corrupt JPEG data" in reason


def test_scan_needs_images(tmp_path):
    with pytest.raises(UserError, match="no file in"):
        scan.scan(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        scan.scan(tmp_path / "none")


@pytest.fixture
def with_bad_files(tmp_path, tree):
    """Links to the photographs of ``tree``, with 3 bad files, 2 of them consecutive."""
    for path in tree.rglob("*.JPEG"):
        link = tmp_path / path.relative_to(tree)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path)
    for name in ("ant/3.JPEG", "ant/4.JPEG", "cat/5.JPEG"):
        (tmp_path / name).unlink()
        truncate(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", [name for name, (_, _, refused) in BAD.items() if refused])
def test_training_stops_and_names_the_file(zoo, tree, data, name):
    good = read_folder(tree)
    names = (*good.paths, os.path.relpath(zoo / "bad" / f"{name}.JPEG", tree))
    images = ImageSet(str(tree), names, np.append(good.labels, 0), good.classes)
    remedy = r"set data.on_bad_file=skip, replace it .*new run with data.exclude"
    with pytest.raises(UserError, match=rf"{name}.JPEG: cannot be read as an image; {remedy}"):
        for _ in loader.train_batches(images, data, WHOLE, 32, len(images), 0, 0, cpu_rank()):
            raise AssertionError("the first batch contains the bad file")


def test_evaluation_and_decode_all_name_the_file(with_bad_files, data):
    images = read_folder(with_bad_files)
    with pytest.raises(UserError, match=r"ant/3.JPEG: cannot be read as an image; replace it") as evaluation:
        list(loader.eval_batches(images, data, 32, 7, cpu_rank()))
    with pytest.raises(UserError, match=r"ant/3.JPEG: cannot be read as an image; replace it.*data.exclude") as cache:
        loader.decode_all(images, data, 32, cpu_rank())
    assert "exclude" not in str(evaluation.value)  # an evaluation uses all images
    assert "on_bad_file" not in str(evaluation.value) + str(cache.value)


def test_the_message_is_one_line_for_any_name(tmp_path, data):
    name = os.fsdecode(b"two\nlines \xff.jpg")
    (tmp_path / name).write_text("no image")
    images = ImageSet(str(tmp_path), (name,), np.zeros(1, int), ("x",))
    with pytest.raises(UserError, match=r"two\\nlines \\udcff.jpg: cannot be read") as error:
        loader.decode_all(images, data, 32, cpu_rank())
    assert "\n" not in str(error.value)


READ_200 = """
import sys
import numpy as np
from tests.helpers.photos import cpu_rank
from vitas_ds.config import Data
from vitas_ds.data import loader
from vitas_ds.data.sources import ImageSet
from vitas_ds.errors import UserError
good, bad = sys.argv[1:]
for place in (3, 64, 127, 130, 199):
    paths = [good] * 200
    paths[place] = bad
    try:
        loader.decode_all(ImageSet("/", tuple(paths), np.zeros(200, int), ("x",)),
                          Data(threads=1, resize=40, eval_batch_size=128), 28, cpu_rank())
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_text_file_does_not_crash_a_large_batch(zoo, tmp_path):
    PHOTO.resize((28, 28)).save(tmp_path / "good.jpg")
    bad = zoo / "bad" / "text.JPEG"  # both the shape and the pixels are unreadable: two operators fail
    done = subprocess.run(
        [sys.executable, "-c", READ_200, tmp_path / "good.jpg", bad], capture_output=True, text=True,
        timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{bad}: cannot be read as an image") == 5


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 2, 5])
def test_skip_substitutes_counts_and_resumes_bitwise(with_bad_files, start, capsys):
    images, data = read_folder(with_bad_files), Data(threads=1, on_bad_file="skip")
    bad = [images.paths.index(name) for name in ("ant/3.JPEG", "ant/4.JPEG", "cat/5.JPEG")]
    substitutes = [bad[1] + 1, bad[1] + 1, 0]
    batches = loader.train_batches(images, data, Augment(), 32, 7, 0, 0, cpu_rank())
    batches_read = [next(batches) for _ in range(6)]
    for epoch in (batches_read[:3], batches_read[3:]):
        ids = torch.cat([b.ids for b in epoch])
        assert sorted(ids.tolist()) == sorted([*({*range(21)} - {*bad}), *substitutes])
        assert sum(b.replaced for b in epoch) == 3
        assert all((b.labels.numpy() == images.labels[b.ids]).all() for b in epoch)
    batches.close()
    stderr = capsys.readouterr().err
    for index in bad:  # 2 epochs, one line per file
        assert stderr.count(f"warning: {images.file(index)}: cannot be read as an image; using another") == 1
    resumed = take(loader.train_batches(images, data, Augment(), 32, 7, 0, start, cpu_rank()), 6 - start)
    assert all(torch.equal(a.images, b[0]) for a, b in zip(batches_read[start:], resumed, strict=True))


def test_the_result_of_scan_can_be_excluded(with_bad_files, tmp_path, data):
    listed = tmp_path / "bad.txt"
    write_list([path for path, _ in scan.scan(with_bad_files, 1)], listed)
    images = read_folder(with_bad_files, listed)
    assert len(images) == 18
    assert sum(len(b.ids) for b in loader.eval_batches(images, data, 32, 7, cpu_rank())) == 18


@pytest.mark.slow
def test_the_scan_command(zoo, tmp_path):
    command = [sys.executable, "-m", "vitas_ds", "scan", "--threads", "1"]
    listed = tmp_path / "bad.txt"
    done = subprocess.run([*command, zoo, "--write", listed], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"scan: {len(BAD)} of {len(BAD) + len(UNUSUAL)} images" in done.stderr
    names = [line.split(".JPEG: ")[0] for line in done.stdout.splitlines()]
    assert sorted(names) == sorted(str(zoo / "bad" / name) for name in BAD)
    assert sorted(listed.read_text().splitlines()) == [f"{name}.JPEG" for name in sorted(names)]
    good = subprocess.run([*command, zoo / "unusual"], capture_output=True, text=True, timeout=120)
    assert (good.returncode, good.stdout) == (0, "")
    missing = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, timeout=120)
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "no such folder" in missing.stderr
