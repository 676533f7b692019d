"""Shrinking a data set: the result equals Pillow's, DALI's and an uninterrupted run's."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.helpers.photos import cpu_rank, photo_crop
from vitas_ds.__main__ import main
from vitas_ds.config import Data
from vitas_ds.data import loader, resize
from vitas_ds.data.resize import Settings, resize_data, shrink
from vitas_ds.data.resized import read_settings
from vitas_ds.data.sources import read_folder
from vitas_ds.errors import UserError

SETTINGS = Settings(40, 90, "folder")


def photo(width=120, height=90, seed=0) -> Image.Image:
    return photo_crop(np.random.default_rng(seed), width, height)


def encode(image: Image.Image, kind="JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def source(tmp_path) -> Path:
    """2 classes, 9 images: large and small JPEGs, a PNG, a file in a subfolder."""
    root = tmp_path / "source"
    for i, name in enumerate(["b/1.JPEG", "b/2.jpg", "b/sub/3.jpg", "b/4.png", "a/0.jpg", "a/5.jpg", "a/6.jpg",
                              "a/small.jpg", "a/9.jpeg"]):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = photo(30, 20) if "small" in name else photo(300 + i, 200, seed=i)
        image.save(path, "PNG" if name.endswith("png") else "JPEG", quality=95)
    return root


def test_names_classes_and_order_stay_the_same(source, tmp_path):
    images, bad = resize_data(source, tmp_path / "out", SETTINGS, workers=1)
    before, after = read_folder(source), read_folder(tmp_path / "out")
    assert (images, bad) == (9, [])
    assert before.paths == after.paths and before.classes == after.classes and (before.labels == after.labels).all()
    for i in range(len(before)):
        old, new = (Image.open(s.file(i)) for s in (before, after))
        scale = min(1, 40 / min(old.size))
        assert min(new.size) == min(40, *old.size) and abs(new.size[0] - old.size[0] * scale) <= 1
    assert (tmp_path / "out/a/small.jpg").read_bytes() == (source / "a/small.jpg").read_bytes()
    assert read_settings(tmp_path / "out")["complete"] and not list((tmp_path / "out").rglob("*.tmp"))


def test_shards_have_the_same_images_and_labels(source, tmp_path, monkeypatch):
    monkeypatch.setattr(resize, "CHUNK", 4)  # seen by this process only: it makes the chunks
    for name, form in (("folder", "folder"), ("shards", "shards")):
        resize_data(source, tmp_path / name, Settings(40, 90, form), workers=1)
    folder, shards = read_folder(tmp_path / "folder"), read_folder(tmp_path / "shards")
    assert folder.classes == shards.classes and (folder.labels == shards.labels).all()
    for i in range(len(folder)):
        assert shards.content(i).tobytes() == Path(folder.file(i)).read_bytes()
    again = tmp_path / "again"
    resize_data(tmp_path / "shards", again, Settings(40, 90, "shards"), workers=1)  # shards as the source
    assert (read_folder(again).labels == folder.labels).all()


def test_pixels_are_close_to_pillow():
    image = photo(640, 480)
    found = Image.open(io.BytesIO(shrink(encode(image, quality=95), Settings(64, 95, "folder"))))
    expected = image.resize((85, 64), Image.Resampling.BICUBIC)
    assert found.size == expected.size
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).mean() < 4


def odd_images() -> dict[str, bytes]:
    smooth = photo(8, 6).resize((120, 90), Image.Resampling.BICUBIC)  # JPEG keeps its colors
    rotated = Image.Exif()
    rotated[0x0112] = 6  # orientation: rotate by 90 degrees
    gray16 = (np.asarray(smooth.convert("L")).astype(np.uint16) * 257) ^ 0x35
    return {
        "exif": encode(smooth, exif=rotated, quality=95),
        "cmyk": encode(smooth.convert("CMYK"), quality=95),
        "gray": encode(smooth.convert("L"), quality=95),
        "progressive": encode(smooth, progressive=True, quality=95),
        "palette": encode(smooth.convert("P"), "PNG"),
        "rgba": encode(smooth.convert("RGBA"), "PNG"),
        "16-bit": encode(Image.fromarray(gray16), "PNG"),
        "webp": encode(smooth, "WEBP", quality=95),
        "bmp": encode(smooth, "BMP"),
    }


@pytest.mark.parametrize("kind", odd_images())
def test_odd_images_give_what_training_would_read(kind, tmp_path):
    """Reference: the evaluation of the original, resized to the same size and cropped in the same place."""
    content = odd_images()[kind]
    for name, data in (("before", content), ("after", shrink(content, Settings(45, 100, "folder")))):
        path = tmp_path / name / "a" / "0.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    read = [
        loader.decode_all(read_folder(tmp_path / n), Data(threads=1, resize=45), 45, cpu_rank())[0].float()
        for n in ("before", "after")
    ]  # fmt: skip
    assert (read[0] - read[1]).abs().mean() < 3 and (read[0] - read[1].flip(2)).abs().mean() > 10


def test_16_bit_pixels_equal_the_training_decoder():
    """Pillow's own conversion clips 16-bit pixels to 255."""
    gray = np.asarray(photo().convert("L"))
    content = encode(Image.fromarray(gray.astype(np.uint16) * 257), "PNG")
    found = np.asarray(Image.open(io.BytesIO(shrink(content, Settings(90 - 1, 100, "folder")))).convert("L"))
    expected = np.asarray(Image.fromarray(gray).resize(found.shape[::-1], Image.Resampling.BICUBIC))
    assert np.abs(found.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("form", ["folder", "shards"])
def test_an_interrupted_run_continues_with_the_same_result(source, tmp_path, monkeypatch, form):
    monkeypatch.setattr(resize, "CHUNK", 2)
    settings = Settings(40, 90, form)
    resize_data(source, tmp_path / "whole", settings, workers=2)

    def stop(done, total):
        if done >= 4:
            raise KeyboardInterrupt

    target = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        resize_data(source, target, settings, workers=1, progress=stop)
    assert not read_settings(target)["complete"]
    written = {p: p.stat().st_mtime_ns for p in target.rglob("*") if p.is_file() and not p.name.startswith(".")}
    with open(target / ".resize.jsonl", "a") as journal:
        journal.write('{"chunk": 9, "unre')  # the process was killed while it wrote
    counts = []
    resize_data(source, target, settings, workers=1, progress=lambda done, total: counts.append(done))
    assert counts[0] > 4 and counts[-1] == 9
    assert contents(target) == contents(tmp_path / "whole")
    kept = [p for p, time in written.items() if p.exists() and p.stat().st_mtime_ns == time]
    assert len(kept) >= 2
    assert resize_data(source, target, settings, progress=lambda *_: pytest.fail("done already")) == (9, [])


def test_unreadable_files_are_listed_and_left_out(source, tmp_path):
    (source / "a/0.jpg").write_bytes((source / "a/0.jpg").read_bytes()[:2000])
    (source / "b/4.png").write_bytes(b"text")
    (source / "b/1.JPEG").write_bytes(b"")
    target = tmp_path / "out"
    images, bad = resize_data(source, target, SETTINGS, workers=1)
    assert [path for path, _ in bad] == [str(source / name) for name in ("a/0.jpg", "b/1.JPEG", "b/4.png")]
    assert bad[0][1].startswith("image file is truncated")
    assert [reason for _, reason in bad[1:]] == ["empty", "unknown format"]
    assert len(read_folder(target)) == images - 3
    assert (target / "unreadable.txt").read_text().splitlines() == [path for path, _ in bad]
    assert resize_data(source, target, SETTINGS)[1] == bad


def test_names_of_unreadable_files_are_printable(source, tmp_path, capsys):
    (source / "a/0\x1b[2J.jpg").touch()
    assert main(["resize-data", str(source), str(tmp_path / "out"), "--short-side", "40", "--workers", "1"]) == 1
    assert capsys.readouterr().out == f"{source}/a/0\\x1b[2J.jpg: empty\n"


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_a_stopped_command_leaves_no_process_and_can_go_on(source, tmp_path, number, status):
    target, large = tmp_path / "out", tmp_path / "large"
    for i in range(2000):  # two chunks
        path = large / "a" / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(source / "a/0.jpg")
    words = ["resize-data", str(large), str(target), "--short-side", "40", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vitas_ds", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_until(lambda: len(list(target.glob("a/*"))) > 20)
        if number == signal.SIGTERM:
            os.killpg(process.pid, number)  # as Slurm and timeout do
        else:
            process.kill()
        text = process.communicate(timeout=60)[1]
        assert process.returncode == status
        if status == 75:  # otherwise, Python prints how many semaphores the killed process left
            assert text == "vitas resize-data: stopped; start it again to resume\n"
        wait_until(lambda: not processes_of(process.pid))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    resize_data(large, target, SETTINGS, workers=1)
    assert len(read_folder(target)) == 2000 and not list(target.rglob("*.tmp"))


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that run."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _session(path) == session]


def _session(path: Path) -> int:
    try:
        state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
    except (OSError, ValueError):  # it has ended
        return 0
    return 0 if state == "Z" else int(session)


def test_two_commands_do_not_write_to_one_folder(source, tmp_path):
    target = tmp_path / "out"
    resize_data(source, target, SETTINGS, workers=1)
    (target / "data.json").write_text(
        (target / "data.json").read_text().replace('"complete": true', '"complete": false')
    )
    journal_of = target / ".resize.jsonl"
    with open(journal_of, "w") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)  # as the other command does
        journal.write('{"chunk": 0, "unrea')  # and it is at work
        journal.flush()
        with pytest.raises(UserError, match="out: another resize-data writes to it; wait for its end"):
            resize_data(source, target, SETTINGS, workers=1)
        assert journal_of.read_text() == '{"chunk": 0, "unrea'
    assert resize_data(source, target, SETTINGS, workers=1) == (9, [])


def test_a_command_that_gets_the_lock_of_a_finished_one_does_nothing(source, tmp_path, monkeypatch):
    """The other command ends between the first look at the folder and the lock."""
    target, lock = tmp_path / "out", resize._lock

    def finish_first(journal, folder):
        monkeypatch.setattr(resize, "_lock", lock)
        resize_data(source, target, SETTINGS, workers=1)
        lock(journal, folder)

    monkeypatch.setattr(resize, "_lock", finish_first)
    assert resize_data(source, target, SETTINGS, progress=lambda *_: pytest.fail("done already")) == (9, [])
    assert read_settings(target)["complete"] and not (target / ".resize.jsonl").exists()


def test_a_kill_before_the_first_chunk_leaves_a_usable_folder(source, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / ".data.json.tmp").write_text("{")
    (target / ".resize.jsonl").touch()
    assert resize_data(source, target, SETTINGS, workers=1) == (9, [])


def test_other_targets_are_refused(source, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"out: is not empty; choose a new folder"):
        resize_data(source, target, SETTINGS)
    with pytest.raises(UserError, match=r"is inside of"):
        resize_data(source, source / "small", SETTINGS)
    done = tmp_path / "done"
    resize_data(source, done, SETTINGS, workers=1)
    with pytest.raises(UserError, match=r"another quality \(90, now 80\)"):
        resize_data(source, done, Settings(40, 80, "folder"))
    (source / "a/new.jpg").write_bytes(encode(photo()))
    with pytest.raises(UserError, match=r"another images \(9, now 10\)"):
        resize_data(source, done, SETTINGS)


def test_a_full_disk_is_found_before_the_start(source, tmp_path, monkeypatch):
    monkeypatch.setattr(resize.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"needs about .* GB, the disk has .* GB free"):
        resize_data(source, tmp_path / "out", SETTINGS)


def test_folders_of_unsorted_shard_classes_are_refused(tmp_path):
    root = tmp_path / "shards"
    root.mkdir()
    with tarfile.open(root / "a.tar", "w") as tar:
        for i in range(2):
            for name, content in ((f"{i}.jpg", encode(photo())), (f"{i}.cls", str(i).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (root / "classes.json").write_text(json.dumps({"zebra": 0, "ant": 1}))
    with pytest.raises(UserError, match="use --format shards"):
        resize_data(root, tmp_path / "out", SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resize_data(root, tmp_path / "out", Settings(40, 90, "shards"), workers=1) == (2, [])
    assert read_folder(tmp_path / "out").classes == ("zebra", "ant")


@pytest.mark.parametrize(
    ("member", "classes", "message"),
    [
        ("../../victim/x", ["a", "b"], r"a.tar/../../victim/x.jpg: this name leaves its folder; use --format shards"),
        ("/vitas_victim/x", ["a", "b"], "this name leaves its folder"),
        ("x", ["../victim", "b"], r"classes.json: '../victim' cannot be the name of a folder; use --format shards"),
        ("x", ["/b", "c"], "cannot be the name of a folder"),
        ("x", ["", "c"], "cannot be the name of a folder"),
        ("x", [".hidden", "c"], "cannot be the name of a folder"),
    ],
)
def test_names_that_leave_the_target_are_refused(tmp_path, member, classes, message):
    """Shards are not trusted. Their own format has numbers for names."""
    root = tmp_path / "deep" / "down" / "shards"
    root.mkdir(parents=True)
    with tarfile.open(root / "a.tar", "w") as tar:
        for i, key in enumerate((member, "y")):
            for name, content in ((f"{key}.jpg", encode(photo())), (f"{key}.cls", str(i).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (root / "classes.json").write_text(json.dumps({name: i for i, name in enumerate(classes)}))
    before = {*tmp_path.rglob("*")}
    with pytest.raises(UserError, match=message):
        resize_data(root, root.parent / "out", SETTINGS, workers=1)
    assert {*tmp_path.rglob("*")} == before and not Path("/vitas_victim").exists()
    assert resize_data(root, root.parent / "out", Settings(40, 90, "shards"), workers=1) == (2, [])
    assert read_folder(root.parent / "out").classes == tuple(classes)


def test_size_is_that_of_torchvision():
    for width, height in ((500, 375), (375, 500), (333, 1000), (97, 64)):
        expected = v2.functional.resize(torch.zeros(3, height, width), 60).shape[-2:]
        assert resize._new_size((width, height), 60) == tuple(expected[::-1])
