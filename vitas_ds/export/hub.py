"""Exported models on the Hugging Face hub: load one by name, and push a folder.

huggingface_hub is optional. It reads HF_TOKEN, HF_HOME (the cache), HF_ENDPOINT and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from vitas_ds.errors import UserError

# A Path has only one slash left
NAME = re.compile(r"hf:/{1,2}(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
WRITTEN = (  # files of an export; a push removes those of an earlier one
    "README.md", "config.json", "spec.json", "preprocess.json", "order.json", "model.safetensors", "model.pt2",
    "model.onnx", "model_int8.onnx", "timm/config.json", "timm/model.safetensors", "timm/README.md",
)  # fmt: skip
READ = tuple(name for name in WRITTEN if not name.startswith("timm/") and name != "model.pt2")
REASONS = {  # by class, as in huggingface_hub
    "HFValidationError": "must be NAME or USER/NAME, of letters, digits and . _ -",
    "RepositoryNotFoundError": "no such model, or it is private: set HF_TOKEN",
    "GatedRepoError": "its owner must give you access: request it on the page of the model, and set HF_TOKEN",
    "RevisionNotFoundError": "no such revision",
    "LocalTokenNotFoundError": "no token: set HF_TOKEN, or log in with `hf auth login`",
    "LocalEntryNotFoundError": "not in the cache, and the hub cannot be reached",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids the network; unset it",
}
UNREACHABLE = {"ConnectionError", "TransportError", "Timeout"}  # of Python, httpx and requests


def is_hub_name(name: str | Path) -> bool:
    """Return whether a model is given as ``hf://NAME``."""
    return str(name).startswith("hf:/")


def local_folder(name: str | Path) -> Path:
    """Return the local folder of a model. ``hf://USER/NAME`` and ``hf://USER/NAME@REVISION`` are downloaded.

    Cached files are not downloaded again, and are used if the hub cannot be reached.

    Raises:
        UserError: The model does not exist, or huggingface_hub is not installed.
    """
    if not is_hub_name(name):
        return Path(name)
    match = NAME.fullmatch(str(name))
    if match is None:
        given = f"hf://{str(name).removeprefix('hf:').lstrip('/')}"
        raise UserError(f"{given}: must be hf://USER/NAME or hf://USER/NAME@REVISION")
    title = f"hf://{match['name']}"
    require_hub(title)
    from huggingface_hub import snapshot_download

    with _one_line(title):
        folder = Path(snapshot_download(match["name"], revision=match["revision"], allow_patterns=list(READ)))
    if not (folder / "spec.json").is_file():
        raise UserError(f"{title}: not a model of vitas_ds: it has no spec.json")
    return folder


def check_push(name: str) -> None:
    """Check a name before the work for it starts.

    Raises:
        UserError: The name is invalid, or huggingface_hub is not installed.
    """
    require_hub(f"--push-to-hub {name}")
    from huggingface_hub.utils import validate_repo_id

    with _one_line(f"--push-to-hub {name}"):
        validate_repo_id(name)


def push(folder: Path, name: str, private: bool = False) -> str:
    """Push an exported folder in one commit; return the address of the model.

    Args:
        folder: The folder.
        name: USER/NAME, or NAME for the user of the token. It is created if it does not exist.
        private: Make a new model private.

    Raises:
        UserError: The hub refuses it or cannot be reached.
    """
    check_push(name)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    with _one_line(f"--push-to-hub {name}"):
        api = HfApi(library_name="vitas_ds")
        repo = api.create_repo(name, private=private or None, exist_ok=True)
        old = [file for file in api.list_repo_files(repo.repo_id) if file not in files and _is_ours(file)]
        operations = [CommitOperationAdd(file, str(path)) for file, path in files.items()]
        deletions = [CommitOperationDelete(file) for file in old]
        api.create_commit(repo.repo_id, [*operations, *deletions], commit_message="Export of vitas_ds")
        return str(repo)


def require_hub(where: str) -> None:
    """Check that huggingface_hub is installed.

    Raises:
        UserError: It is not.
    """
    if find_spec("huggingface_hub") is None:
        raise UserError(f"{where}: huggingface_hub is not installed; pip install -e '.[hub]'")


def _is_ours(file: str) -> bool:
    return file in WRITTEN


@contextmanager
def _one_line(title: str) -> Iterator[None]:
    """Turn an error of huggingface_hub or of the network into one line."""
    try:
        yield
    except Exception as error:  # they have no common base class
        found = " ".join(str(error).split()) or type(error).__name__
        kinds = [kind.__name__ for kind in type(error).__mro__]
        reason = next((REASONS[kind] for kind in kinds if kind in REASONS), None)
        if reason is None and UNREACHABLE.intersection(kinds):
            from huggingface_hub import constants

            reason = (
                f"cannot reach the hub ({constants.ENDPOINT}: {found[:80]}); check the network, or set HF_ENDPOINT, "
                "then start the same command again"
            )
        raise UserError(f"{title}: {reason or found[:200]}") from None
