"""A Hugging Face hub on this machine: the parts of its HTTP interface for pushes and downloads of models.

huggingface_hub itself talks to it, through HF_ENDPOINT. Files are kept in memory; every commit replaces the last one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """Models by name, with the files of each: ``{"user/name": {"README.md": b"..."}}``."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.commits = self.downloads = 0
        self.address = ""

    def environment(self, home: object) -> dict[str, str]:
        """Return the variables of a process that uses this hub, with its cache in ``home``."""
        proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_TOKEN": "hf_test", **proxies}

    @property
    def sha(self) -> str:
        """Hash of the newest commit."""
        return hashlib.sha1(str(self.commits).encode()).hexdigest()

    def create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Create a model."""
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        self.created.append(wanted)
        self.models.setdefault(name, {})
        return {"url": f"{self.address}/{name}"}

    def commit(self, name: str, body: bytes) -> dict[str, Any]:
        """Apply the operations of a commit."""
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.models[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.models[name][line["value"]["path"]]
        self.commits += 1
        return {"success": True, "commitOid": self.sha, "commitUrl": f"{self.address}/{name}/commit/{self.sha}"}

    def tree(self, name: str) -> list[dict[str, Any]]:
        """List the files of a model."""
        return [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in self.models[name].items()
        ]


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of huggingface_hub."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    @property
    def words(self) -> list[str]:
        """Parts of the path."""
        return self.path.partition("?")[0].strip("/").split("/")

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        words, name = self.words, "/".join(self.words[2:4])
        if self.headers.get("Authorization") != "Bearer hf_test":
            self.answer({"error": "Invalid token"}, 401)
        elif words == ["api", "repos", "create"]:
            self.answer(self.hub.create(json.loads(body)))
        elif words == ["api", "validate-yaml"]:  # the header of a model card
            self.answer({"errors": [], "warnings": []})
        elif words[4] == "preupload":
            files = json.loads(body)["files"]
            self.answer({"files": [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
            ]})  # fmt: skip
        else:
            self.answer(self.hub.commit(name, body))

    def do_GET(self) -> None:
        words, api = self.words, self.words[0] == "api"
        name = "/".join(words[2:4] if api else words[:2])
        if name not in self.hub.models:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif not api:  # USER/NAME/resolve/REVISION/FILE
            self.send_file(self.hub.models[name]["/".join(words[4:])])
        elif "tree" in words:
            self.answer(self.hub.tree(name))
        elif "revision" in words and words[-1] not in ("main", self.hub.sha):
            self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        else:
            files = [{"rfilename": path} for path in self.hub.models[name]]
            self.answer({"id": name, "modelId": name, "sha": self.hub.sha, "siblings": files, "private": False})

    do_HEAD = do_GET

    def send_file(self, data: bytes) -> None:
        self.hub.downloads += self.command == "GET"
        self.answer(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=self.hub.sha)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve a hub on a free port during the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = server.hub = Hub()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
