"""A hub of model files on the loopback: as much of it as downloading a snapshot takes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class StubHub:
    """`branches` says which commit a name means now; `commits` where its files lie."""

    name: str
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answer: int = 200
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _handler(hub: StubHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(with_body=True)

        def do_HEAD(self) -> None:
            self._serve(with_body=False)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _serve(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.answer != 200:
                return self._send(hub.answer, b"{}", {}, with_body=with_body)
            parts = path.removeprefix("/").split("/")
            if path.startswith(f"/api/models/{hub.name}"):
                return self._facts(parts[4:], with_body=with_body)
            if path.startswith(f"/{hub.name}/resolve/"):
                return self._file(parts[3], "/".join(parts[4:]), with_body=with_body)
            return self._send(404, b"{}", {}, with_body=with_body)

        def _commit(self, revision: str) -> str:
            return hub.branches.get(revision, revision)

        def _facts(self, rest: list[str], *, with_body: bool) -> None:
            commit = self._commit("/".join(rest[1:]) if rest[:1] == ["revision"] else "main")
            tree = rest[:1] == ["tree"]
            if tree:
                commit = self._commit(rest[1])
            if commit not in hub.commits:
                missing = {"X-Error-Code": "RevisionNotFound"}
                return self._send(404, b"{}", missing, with_body=with_body)
            files = sorted(p for p in hub.commits[commit].iterdir() if p.is_file())
            listed = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _oid(p)}
                for p in files
            ]
            facts = {
                "id": hub.name,
                "modelId": hub.name,
                "sha": commit,
                "private": False,
                "siblings": [{"rfilename": p.name, "size": p.stat().st_size} for p in files],
                "tags": [],
                "downloads": 0,
            }
            body = json.dumps(listed if tree else facts).encode()
            return self._send(200, body, {"Content-Type": "application/json"}, with_body=with_body)

        def _file(self, revision: str, name: str, *, with_body: bool) -> None:
            commit = self._commit(revision)
            path = hub.commits.get(commit, Path("/nowhere")) / name
            if not path.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)
            headers = {"ETag": f'"{_oid(path)}"', "X-Repo-Commit": commit}
            return self._send(200, path.read_bytes(), headers, with_body=with_body)

        def _send(
            self, code: int, body: bytes, headers: dict[str, str], *, with_body: bool
        ) -> None:
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def stub_hub(name: str) -> Iterator[StubHub]:
    hub = StubHub(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
