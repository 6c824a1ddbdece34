"""A server that answers what the Hugging Face hub's library requests of it: repositories of small files."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = dict[str, bytes]


class FakeHub(ThreadingHTTPServer):
    """The repositories, by ``owner/name`` and branch, and what was requested.

    Only ``owner`` may be written to, with the token ``secret``.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Files]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[dict[str, Any]] = []
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def commit_of(files: Files) -> str:
    """The name of a commit: a digest of its files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        self.server.requests.append(f"{self.command} {self.path}")

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "") -> None:
        self.answer({"error": "refused"}, status, X_Error_Code=code, X_Error_Message="refused by the test")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.partition("?")[0].split("/")[1:]
        if parts == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
        else:
            name = "/".join(parts[2:4])
        if not name.startswith("owner/") or self.headers.get("Authorization") != "Bearer secret":
            return self.refuse(403)
        if parts[1] == "repos":
            exists = name in self.server.repositories
            self.server.repositories.setdefault(name, {"main": {}})
            private = asked.get("private") or asked.get("visibility") == "private"  # by version
            self.server.private.setdefault(name, bool(private))
            return self.answer({"url": f"{self.server.address}/{name}"}, 409 if exists else 200)
        branches = self.server.repositories[name]
        action, branch = parts[4], parts[5]
        if action == "branch":
            branches.setdefault(branch, dict(branches["main"]))
        elif action == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.answer({"files": [file | {"shouldIgnore": False} for file in files]})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            self.server.commits.append(lines[0]["value"])
            for line in lines[1:]:
                branches[branch][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = commit_of(branches[branch])
        address = f"{self.server.address}/{name}/commit/{oid}"
        return self.answer({"success": True, "commitOid": oid, "commitUrl": address})

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].split("/")[1:]
        parts = parts[2:] if parts[0] == "api" else parts
        branches = self.server.repositories.get("/".join(parts[:2]))
        if branches is None:
            return self.refuse(404, "RepoNotFound")
        if self.server.private["/".join(parts[:2])] and "secret" not in self.headers.get("Authorization", ""):
            return self.refuse(401, "RepoNotFound")
        revision = parts[3] if len(parts) > 3 else "main"
        named = {commit_of(files): files for files in branches.values()} | branches
        if revision not in named:
            return self.refuse(404, "RevisionNotFound")
        files, oid = named[revision], commit_of(named[revision])
        if parts[2:3] == ["resolve"]:
            content = files.get("/".join(parts[4:]))
            if content is None:
                return self.refuse(404, "EntryNotFound")
            return self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=oid)
        if parts[2:3] == ["tree"]:
            listing = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            return self.answer(listing)
        siblings = [{"rfilename": path} for path in files]
        return self.answer({"id": "/".join(parts[:2]), "sha": oid, "siblings": siblings})

    do_HEAD = do_GET  # noqa: N815
