"""CIFAR-10 as an ImageFolder: archives, downloads that break, and user errors.

References: pixels drawn here, written in the format of the public archive (pickles of Python 2), and a server on this
machine.
"""

import functools
import http.server
import importlib.util
import io
import os
import pickle
import struct
import sys
import tarfile
import threading

import numpy as np
import pytest

from tests.helpers.paths import ROOT

pytest.importorskip("PIL")
from PIL import Image

_found = importlib.util.spec_from_file_location("make_cifar10", ROOT / "launch" / "make_cifar10.py")
cifar10 = importlib.util.module_from_spec(_found)
sys.modules["make_cifar10"] = cifar10
_found.loader.exec_module(cifar10)

PER_CLASS = {"train": 5, "test": 1}


def old_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """Return a batch as Python 2 and its numpy pickled it, opcode by opcode: texts are bytes without an encoding."""
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    number = lambda value: b"J" + struct.pack("<i", value)  # noqa: E731
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    )
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86"
    array += (
        b"(" + number(1) + shape + dtype + b"\x89" + b"T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    )
    ints = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + ints + b"u."


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def smooth(rng: np.random.Generator) -> np.ndarray:
    """Return an image [3, 32, 32] that JPEG keeps nearly unchanged: a gradient in each color."""
    corners = rng.integers(0, 256, (3, 2, 1))
    ramp = np.linspace(corners[:, 0], corners[:, 1], 32, axis=1)
    return np.broadcast_to(ramp, (3, 32, 32)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Write a small archive in the public format. Returns its path, and its images by (part, class)."""
    path, rng = tmp_path_factory.mktemp("data") / "public.tar.gz", np.random.default_rng(0)
    images: dict[tuple[str, str], list[np.ndarray]] = {}
    with tarfile.open(path, "w:gz") as tar:
        for name in ["test_batch", *(f"data_batch_{i}" for i in range(5, 0, -1))]:  # in any order
            labels = rng.permutation(10).tolist()
            pixels = np.stack([smooth(rng) for _ in labels])
            add(tar, f"cifar-10-batches-py/{name}", old_pickle(pixels.reshape(10, -1), labels))
            part = "test" if name == "test_batch" else "train"
            for image, label in zip(pixels, labels, strict=True):
                images.setdefault((part, cifar10.CLASSES[label]), []).insert(0, image)  # batch 1 first
        add(tar, "cifar-10-batches-py/readme.html", b"")
    return path, images


def source_of(path, url="http://127.0.0.1:9/", **changed):
    return cifar10.Source(**{"url": url, "md5": cifar10.md5(path), "per_class": PER_CLASS} | changed)


def check(root, images) -> None:
    assert len(list(root.rglob("*"))) == 22 + 60
    for (part, name), expected in images.items():
        files = sorted((root / part / name).iterdir())
        assert [file.name for file in files] == [f"{i:04}.jpg" for i in range(PER_CLASS[part])]
        for file, image in zip(files, expected, strict=True):
            found = np.asarray(Image.open(file), np.float32).transpose(2, 0, 1)
            assert found.shape == (3, 32, 32) and np.abs(found - image).max() < 12  # of 255, lost by JPEG


def test_images_of_the_public_archive(public, tmp_path):
    path, images = public
    root = tmp_path / "data" / "cifar10"
    assert cifar10.make(root, path, source_of(path))
    check(root, images)
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert not cifar10.make(root, path, source_of(path))
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    assert [entry.name for entry in root.parent.iterdir()] == ["cifar10"]


def test_images_of_a_tar_of_the_folder_keep_their_bytes(public, tmp_path):
    path, images = public
    first, second = tmp_path / "first", tmp_path / "second"
    cifar10.make(first, path, source_of(path))
    with tarfile.open(tmp_path / "folder.tar", "w") as tar:
        tar.add(first, "anything/cifar10")
        add(tar, "../../train/cat/outside.txt", b"ignored")
    second.mkdir()  # an empty target is fine
    assert cifar10.make(second, tmp_path / "folder.tar", source_of(path))
    check(second, images)
    for file in first.rglob("*.jpg"):
        assert file.read_bytes() == (second / file.relative_to(first)).read_bytes()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one content, with or without ranges; ``cut`` closes the first connection after that many bytes."""

    def __init__(self, server, *args):
        self.state = server
        super().__init__(*args)

    def do_GET(self):
        content, start = self.state["content"], 0
        wanted = self.headers.get("Range")
        self.state["ranges"].append(wanted)
        if wanted and self.state["resumes"]:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.state["resumes"] else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.state.pop("cut", None)])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(public, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = {"content": public[0].read_bytes(), "ranges": [], "resumes": True}
    http_server = http.server.HTTPServer(("127.0.0.1", 0), functools.partial(Handler, state))
    threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True).start()
    state["url"] = f"http://127.0.0.1:{http_server.server_port}/cifar-10-python.tar.gz"
    yield state
    http_server.shutdown()
    http_server.server_close()


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_download_resumes(public, server, tmp_path, resumes):
    path, images = public
    server |= {"cut": 5000, "resumes": resumes}
    root = tmp_path / "cifar10"
    with pytest.raises(ValueError, match=f"{len(server['content']) - 5000:,} bytes are missing; start again to resume"):
        cifar10.make(root, None, source_of(path, server["url"]))
    kept = tmp_path / ".cifar-10-python.tar.gz.partial"
    assert list(tmp_path.iterdir()) == [kept] and kept.read_bytes() == server["content"][:5000]
    assert cifar10.make(root, None, source_of(path, server["url"]))
    assert server["ranges"] == [None, "bytes=5000-"]
    check(root, images)
    assert list(tmp_path.iterdir()) == [root]


def test_a_whole_download_is_not_repeated(public, server, tmp_path):
    """As after a kill while the images were written."""
    path, images = public
    (tmp_path / ".cifar-10-python.tar.gz.partial").write_bytes(server["content"])
    assert cifar10.make(tmp_path / "cifar10", None, source_of(path, server["url"]))
    check(tmp_path / "cifar10", images)


def test_a_wrong_download_is_deleted(public, server, tmp_path):
    server["content"] = b"an error page"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the MD5 is \w{32}, expected \w{32}; start again"):
            cifar10.make(tmp_path / "cifar10", None, source_of(public[0], server["url"]))
        assert list(tmp_path.iterdir()) == []
    assert server["ranges"] == [None, None]


def archive_with(path, content: bytes):
    with tarfile.open(path, "w:gz") as tar:
        for name in [*cifar10.BATCHES["train"], *cifar10.BATCHES["test"]]:
            add(tar, name, content)
    return path


def test_a_pickle_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    path = archive_with(tmp_path / "evil.tar.gz", pickle.dumps({b"data": Evil(), b"labels": []}, 3))
    with pytest.raises(ValueError, match=r"not a batch of CIFAR-10: refuses posix\.mkdir"):
        cifar10.make(tmp_path / "cifar10", path, source_of(path))
    assert list(tmp_path.iterdir()) == [path]


def wrong_files(folder, public):
    """Yield (file, source, part of the message)."""
    content = public.read_bytes()
    (folder / "cut.tar.gz").write_bytes(content[:5000])
    (folder / "page.html").write_text("<html>\n" * 999)
    (folder / "flipped.tar.gz").write_bytes(content[:5000] + bytes([content[5000] ^ 255]) + content[5001:])
    with tarfile.open(folder / "photos.tar", "w") as tar:
        add(tar, "train/cat/a.jpg", b"\xff\xd8 not a photograph")
    large = io.BytesIO()
    Image.new("RGB", (64, 64)).save(large, "JPEG")
    with tarfile.open(folder / "large.tar", "w") as tar:
        add(tar, "train/cat/a.jpg", large.getvalue())
    archive_with(folder / "other.tar.gz", pickle.dumps([1, 2], 2))
    archive_with(folder / "label.tar.gz", old_pickle(np.zeros((1, 3072), np.uint8), [10]))
    yield folder / "cut.tar.gz", None, "damaged"
    yield folder / "page.html", None, "damaged, or not an archive of CIFAR-10"
    yield folder / "flipped.tar.gz", None, "flipped.tar.gz"
    yield folder / "photos.tar", None, "train/cat/a.jpg is not a readable image"
    yield folder / "large.tar", None, "train/cat/a.jpg is not 32 x 32"
    yield folder / "other.tar.gz", None, "expected d41d8"
    yield folder / "none.tar.gz", None, "none.tar.gz: no such file"
    for name in ("other.tar.gz", "label.tar.gz"):
        yield folder / name, source_of(folder / name), "not a batch of CIFAR-10"
    yield public, source_of(public, per_class={"train": 6, "test": 1}), "train/airplane has 5 images instead of 6"


def test_user_errors_are_one_line_and_leave_nothing(public, tmp_path, capsys):
    path, root = public[0], tmp_path / "out" / "cifar10"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    default = source_of(path, md5="d41d8")
    cases = [(root, *case) for case in wrong_files(tmp_path, path)]
    cases += [(tmp_path / "full", path, None, "not empty"), (tmp_path / "page.html", path, None, "not empty")]
    cases += [(root, None, source_of(path), "127.0.0.1:9/: [Errno 111] Connection refused; start again")]
    for target, archive, source, message in cases:
        arguments = [str(target), *(["--archive", str(archive)] if archive else [])]
        assert cifar10.main(arguments, source or default) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error, (message, error)
        assert not root.exists() and not list((tmp_path / "out").glob(".cifar10*"))


def test_a_full_disk_is_one_line_and_leaves_nothing(public, tmp_path, monkeypatch, capsys):
    """A limit on the size of files stands in for the disk: writing beyond it fails like a full disk."""
    path, root = public[0], tmp_path / "cifar10"
    arguments = [str(root), "--archive", str(path)], source_of(path)
    with monkeypatch.context() as patch:
        patch.setattr(cifar10, "ON_DISK", 1 << 60)
        assert cifar10.main(*arguments) == 2
    assert "MB are free" in capsys.readouterr().err
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        status = cifar10.main(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and "File too large" in error
    assert list(tmp_path.iterdir()) == []
