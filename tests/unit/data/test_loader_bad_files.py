"""Bad and odd files, row by row: what scan says of them, and what a training does when it meets one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.helpers.photos import alone, crop_of_photograph, take
from vitas_ds.config import Augment, Data
from vitas_ds.data import loader, scan
from vitas_ds.data.sources import ImageSet, read_folder, write_list
from vitas_ds.errors import UserError

PHOTO = crop_of_photograph(np.random.default_rng(5), 320, 240)


def jpeg(path, **options):
    PHOTO.save(path, format="JPEG", quality=90, **options)
    return path.read_bytes()


def cut(path):
    content = jpeg(path)
    path.write_bytes(content[: len(content) // 2])


def overwrite(path, by, **options):
    content = bytearray(jpeg(path, **options))
    content[len(content) // 2 : len(content) // 2 + len(by)] = by
    path.write_bytes(content)


def half_a_png(path):
    PHOTO.save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:9000])


def damaged_png(path):
    PHOTO.save(path, format="PNG")
    content = bytearray(path.read_bytes())
    content[9000:9010] = bytes(10)
    path.write_bytes(content)


def half_a_bmp(path):
    PHOTO.save(path, format="BMP")
    path.write_bytes(path.read_bytes()[:9000])


BAD = {  # name: (how it is made, what scan says, whether DALI refuses it)
    "empty": (lambda p: p.write_bytes(b""), "empty", True),
    "text": (lambda p: p.write_text("not an image\n" * 30), "not decodable", True),
    "cut in half": (cut, "cut off: no end marker", True),
    "end marker lost": (lambda p: p.write_bytes(jpeg(p)[:-2]), "cut off: no end marker", True),
    "cut header": (lambda p: p.write_bytes(jpeg(p)[:100]), "cut off in the header", True),
    "block of noise": (lambda p: overwrite(p, np.random.default_rng(0).bytes(4096)), "damaged: stray marker", False),
    "block of zeros": (lambda p: overwrite(p, bytes(512)), "not decodable: Corrupt JPEG data", False),
    "progressive, zeros": (lambda p: overwrite(p, bytes(512), progressive=True), "not decodable: Corrupt", False),
    "half a png": (half_a_png, "cut off: no end chunk", True),
    "damaged png": (damaged_png, "damaged: checksum", True),
    "half a bmp": (half_a_bmp, "not decodable", True),
    "gif": (lambda p: PHOTO.save(p, format="GIF"), "not decodable", True),
    "dangling link": (lambda p: p.symlink_to("nowhere.jpg"), "No such file", True),
}
WHOLE = Augment(scale=(1.0, 1.0), ratio=(0.01, 100))  # the whole image: a crop above a cut could be read
ODD = {
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
    "one colour": lambda p: Image.new("RGB", (64, 64), (9, 200, 30)).save(p, optimize=True),
    "bytes after the end": lambda p: p.write_bytes(jpeg(p) + bytes(99)),
    "naïve ☃ name": lambda p: jpeg(p),
    "exif": lambda p: save_rotated(p),
}


def save_rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg(path, exif=exif)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("zoo")
    for folder, makers in (("bad", {k: v[0] for k, v in BAD.items()}), ("odd", ODD)):
        (root / folder).mkdir()
        for name, make in makers.items():
            make(root / folder / f"{name}.JPEG")
    return root


@pytest.fixture(scope="module")
def found(zoo):
    steps = []
    found = dict(scan.scan(zoo, 1, progress=lambda done, total: steps.append((done, total))))
    assert steps[-1] == (len(BAD) + len(ODD),) * 2
    return found


@pytest.mark.parametrize("name", BAD)
def test_scan_names_what_is_bad(zoo, found, name):
    assert found[str(zoo / "bad" / f"{name}.JPEG")].startswith(BAD[name][1])


@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_read_as_by_torchvision(zoo, found, name, data):
    path = zoo / "odd" / f"{name}.JPEG"
    assert str(path) not in found
    images = ImageSet(str(path.parent), (path.name,), np.zeros(1, int), ("x",))
    image = Image.open(path).convert("RGB")  # torchvision's and timm's loader; EXIF is not looked at
    expected = v2.functional.pil_to_tensor(image).float()
    if expected.shape[1:] == (240, 320):
        expected = v2.functional.center_crop(expected, [240, 240])
        data = data.model_copy(update={"resize": 240})
        (ours,) = loader.decode_all(images, data, 240, alone())
        assert torch.equal(ours.float(), expected)  # nothing is resized: bit for bit
    else:
        data = data.model_copy(update={"resize": 32})
        (ours,) = loader.decode_all(images, data, 32, alone())
        assert (ours.float() - expected[:, :1, :1]).abs().max() <= 1


@pytest.mark.slow
def test_scan_that_decodes_finds_subtle_damage(tmp_path):
    overwrite(tmp_path / "whole.jpg", b"")
    overwrite(tmp_path / "hurt.jpg", np.random.default_rng(0).integers(1, 255, 60, dtype=np.uint8).tobytes())
    assert scan.scan(tmp_path, 1) == []
    ((path, reason),) = scan.scan(tmp_path, 1, decode=True)
    assert path == str(tmp_path / "hurt.jpg") and "Corrupt JPEG data" in reason


def test_scan_needs_images(tmp_path):
    with pytest.raises(UserError, match="no file in"):
        scan.scan(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        scan.scan(tmp_path / "none")


@pytest.fixture
def spoiled(tmp_path, tree):
    """The tree's photographs as links, with 3 bad files among them, 2 in a row."""
    for path in tree.rglob("*.JPEG"):
        link = tmp_path / path.relative_to(tree)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path)
    for name in ("ant/3.JPEG", "ant/4.JPEG", "cat/5.JPEG"):
        (tmp_path / name).unlink()
        cut(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", [name for name, (_, _, refused) in BAD.items() if refused])
def test_training_ends_and_names_the_file(zoo, tree, data, name):
    good = read_folder(tree)
    names = (*good.paths, os.path.relpath(zoo / "bad" / f"{name}.JPEG", tree))
    images = ImageSet(str(tree), names, np.append(good.labels, 0), good.classes)
    remedy = r"set data.on_bad_file=skip, replace it .*new run with data.exclude"
    with pytest.raises(UserError, match=rf"{name}.JPEG: cannot be read as an image; {remedy}"):
        for _ in loader.train_batches(images, data, WHOLE, 32, len(images), 0, 0, alone()):
            raise AssertionError("the first batch holds the bad file")


def test_evaluation_and_the_cache_name_the_file(spoiled, data):
    images = read_folder(spoiled)
    with pytest.raises(UserError, match=r"ant/3.JPEG: cannot be read as an image; replace it") as evaluation:
        list(loader.eval_batches(images, data, 32, 7, alone()))
    with pytest.raises(UserError, match=r"ant/3.JPEG: cannot be read as an image; replace it.*data.exclude") as cache:
        loader.decode_all(images, data, 32, alone())
    assert "exclude" not in str(evaluation.value)  # nothing is left out of an evaluation
    assert "on_bad_file" not in str(evaluation.value) + str(cache.value)


def test_the_line_is_one_whatever_the_name(tmp_path, data):
    name = os.fsdecode(b"two\nlines \xff.jpg")
    (tmp_path / name).write_text("no image")
    images = ImageSet(str(tmp_path), (name,), np.zeros(1, int), ("x",))
    with pytest.raises(UserError, match=r"two\\nlines \\udcff.jpg: cannot be read") as error:
        loader.decode_all(images, data, 32, alone())
    assert "\n" not in str(error.value)


READS_TWO_HUNDRED = """
import sys
import numpy as np
from tests.helpers.photos import alone
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
                          Data(threads=1, resize=40, eval_batch_size=128), 28, alone())
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_file_that_is_no_image_does_not_crash_a_large_batch(zoo, tmp_path):
    PHOTO.resize((28, 28)).save(tmp_path / "good.jpg")
    bad = zoo / "bad" / "text.JPEG"  # neither its shape nor its pixels can be read: two operators fail
    done = subprocess.run(
        [sys.executable, "-c", READS_TWO_HUNDRED, tmp_path / "good.jpg", bad], capture_output=True, text=True,
        timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{bad}: cannot be read as an image") == 5


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 2, 5])
def test_skipping_replaces_counts_and_resumes_bitwise(spoiled, start, capsys):
    images, data = read_folder(spoiled), Data(threads=1, on_bad_file="skip")
    bad = [images.paths.index(name) for name in ("ant/3.JPEG", "ant/4.JPEG", "cat/5.JPEG")]
    stand_ins = [bad[1] + 1, bad[1] + 1, 0]
    batches = loader.train_batches(images, data, Augment(), 32, 7, 0, 0, alone())
    whole = [next(batches) for _ in range(6)]
    for epoch in (whole[:3], whole[3:]):
        ids = torch.cat([b.ids for b in epoch])
        assert sorted(ids.tolist()) == sorted([*({*range(21)} - {*bad}), *stand_ins])
        assert sum(b.replaced for b in epoch) == 3
        assert all((b.labels.numpy() == images.labels[b.ids]).all() for b in epoch)
    batches.close()
    said = capsys.readouterr().err
    for index in bad:  # 2 epochs, one line a file
        assert said.count(f"warning: {images.file(index)}: cannot be read as an image; another is shown") == 1
    resumed = take(loader.train_batches(images, data, Augment(), 32, 7, 0, start, alone()), 6 - start)
    assert all(torch.equal(a.images, b[0]) for a, b in zip(whole[start:], resumed, strict=True))


def test_what_scan_finds_can_be_excluded(spoiled, tmp_path, data):
    listed = tmp_path / "bad.txt"
    write_list([path for path, _ in scan.scan(spoiled, 1)], listed)
    images = read_folder(spoiled, listed)
    assert len(images) == 18
    assert sum(len(b.ids) for b in loader.eval_batches(images, data, 32, 7, alone())) == 18


@pytest.mark.slow
def test_the_scan_command(zoo, tmp_path):
    command = [sys.executable, "-m", "vitas_ds", "scan", "--threads", "1"]
    listed = tmp_path / "bad.txt"
    done = subprocess.run([*command, zoo, "--write", listed], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"scan: {len(BAD)} of {len(BAD) + len(ODD)} images" in done.stderr
    names = [line.split(".JPEG: ")[0] for line in done.stdout.splitlines()]
    assert sorted(names) == sorted(str(zoo / "bad" / name) for name in BAD)
    assert sorted(listed.read_text().splitlines()) == [f"{name}.JPEG" for name in sorted(names)]
    good = subprocess.run([*command, zoo / "odd"], capture_output=True, text=True, timeout=120)
    assert (good.returncode, good.stdout) == (0, "")
    missing = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, timeout=120)
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "no such folder" in missing.stderr
