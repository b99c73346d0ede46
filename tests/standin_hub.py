"""A stand-in for the Hub's HTTP API, as far as huggingface_hub's client uses it to push and to load."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".bin", ".pt", ".tar")

Files = dict[str, bytes]


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Repository:
    """Branches, and the files of every commit."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, Files] = {}
        self.branches: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.commit("main", {})

    def commit(self, branch: str, files: Files) -> str:
        tree = sorted((name, git_oid(content)) for name, content in files.items())
        oid = hashlib.sha1(json.dumps([len(self.commits), tree]).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def find(self, revision: str) -> str:
        return self.branches.get(revision, revision)

    @property
    def files(self) -> Files:
        return self.commits[self.branches["main"]]


class StandInHub:
    """A server on this machine. `tokens` are users by token, a user with `read:` before may not write.

    `failures` answers requests whose line (`PUT /lfs/…`) begins with a key with that status; `requests` lists all lines.
    """

    def __init__(self) -> None:
        self.tokens = {"may-write": "me", "may-read": "read:me"}
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.failures: dict[str, int] = {}
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def model(self, name: str) -> Repository:
        return self.repositories[f"models/{name}"]


class _Refused(Exception):  # noqa: N818 (an answer, no error of the test)
    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    server_hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def _answer(self) -> None:
        hub, address = self.server_hub, urlsplit(self.path)
        line, self.recursive = f"{self.command} {unquote(address.path)}", "recursive=true" in address.query.lower()
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append(line)
        hub.bodies.append(self.body)
        try:
            for start, status in hub.failures.items():
                if line.startswith(start):
                    raise _Refused(status)
            for pattern, action in ROUTES:
                if match := re.fullmatch(pattern, line):
                    action(self, **match.groupdict())
                    return
            raise _Refused(404)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            self._send(json.dumps({"error": f"refused with {refused.status}"}).encode(), refused.status, headers)

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _user(self, writing: bool = False) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if (token or writing) and token not in self.server_hub.tokens:
            raise _Refused(401)
        user = self.server_hub.tokens.get(token)
        if writing and user and user.startswith("read:"):
            raise _Refused(403)
        return user.removeprefix("read:") if user else None

    def _repository(self, kind: str, name: str, writing: bool = False) -> Repository:
        user = self._user(writing)
        repository = self.server_hub.repositories.get(f"{kind}/{name}")
        owner = name.split("/")[0]
        if repository is None or (repository.private and user != owner):
            raise _Refused(404 if user else 401, "RepoNotFound")
        if writing and user != owner:
            raise _Refused(403)
        return repository

    def whoami(self) -> None:
        self._json({"type": "user", "name": self._user(writing=False), "orgs": [], "auth": {}})

    def create(self) -> None:
        wanted = json.loads(self.body)
        user = self._user(writing=True)
        owner = wanted.get("organization") or user
        if owner != user:
            raise _Refused(403)
        name, kind = f"{owner}/{wanted['name']}", f"{wanted.get('type') or 'model'}s"
        exists = f"{kind}/{name}" in self.server_hub.repositories
        if not exists:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.server_hub.repositories[f"{kind}/{name}"] = Repository(private)
        prefix = "" if kind == "models" else f"{kind}/"
        self._json({"url": f"{self.server_hub.url}/{prefix}{name}", "name": name}, 409 if exists else 200)

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, writing=True)
        present = repository.commits[self._commit_of(repository, revision)]
        answers = []
        for file in json.loads(self.body)["files"]:
            large = file["path"].endswith(LFS_SUFFIXES)
            content = present.get(file["path"])
            oid = None if content is None else (lfs_oid if large else git_oid)(content)
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def _commit_of(self, repository: Repository, revision: str) -> str:
        commit = repository.find(revision)
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound")
        return commit

    def batch(self, name: str, kind: str | None = None) -> None:
        self._repository(kind or "models", name, writing=True)
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server_hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.server_hub.url}/lfs/{wanted['oid']}"}}
            answers.append(answer)
        self._json({"transfer": "basic", "objects": answers})

    def put(self, oid: str) -> None:
        if lfs_oid(self.body) != oid:
            raise _Refused(400)
        self.server_hub.objects[oid] = self.body
        self._send(b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, writing=True)
        files = dict(repository.commits[self._commit_of(repository, revision)])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server_hub.objects[value["oid"]]
        oid = repository.commit(revision, files)
        self._json({"commitUrl": f"{self.server_hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def branch(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, writing=True)
        if revision in repository.branches:
            raise _Refused(409)
        repository.branches[revision] = repository.branches["main"]
        self._json({})

    def variable(self, name: str) -> None:
        wanted = json.loads(self.body)
        variables = self._repository("spaces", name, writing=True).variables
        variables[wanted["key"]] = wanted["value"]
        self._json({key: {"value": value} for key, value in variables.items()})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repository = self._repository(kind, name)
        commit = self._commit_of(repository, revision)
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        self._json({"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings})

    def refs(self, kind: str, name: str) -> None:
        branches = self._repository(kind, name).branches
        found = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in branches.items()]
        self._json({"branches": found, "converts": [], "tags": []})

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        repository = self._repository(kind, name)
        entries = _entries(repository.commits[self._commit_of(repository, revision)])
        start = f"{folder}/" if folder else ""
        below = [path for path in entries if path.startswith(start)]
        self._json([entries[path] for path in below if self.recursive or "/" not in path.removeprefix(start)])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        entries = _entries(repository.commits[self._commit_of(repository, revision)])
        self._json([entries[path] for path in json.loads(self.body)["paths"] if path in entries])

    def resolve(self, name: str, revision: str, path: str, kind: str | None = None) -> None:
        repository = self._repository(kind or "models", name)
        commit = self._commit_of(repository, revision)
        if path not in repository.commits[commit]:
            raise _Refused(404, "EntryNotFound")
        content = repository.commits[commit][path]
        large = path.endswith(LFS_SUFFIXES)
        etag = {"ETag": f'"{(lfs_oid if large else git_oid)(content)}"', "X-Repo-Commit": commit}
        start, end = _wanted_bytes(self.headers.get("Range"), len(content))
        self._send(content[start:end], 206 if self.headers.get("Range") else 200, etag)


def _entries(files: Files) -> dict[str, dict[str, Any]]:
    """Files and folders by path, as the Hub lists them."""
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents if str(folder) != "."}
    entries: dict[str, dict[str, Any]] = {path: {"type": "directory", "path": path, "oid": ""} for path in folders}
    for path, content in files.items():
        entries[path] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path.endswith(LFS_SUFFIXES):
            entries[path]["lfs"] = {"oid": lfs_oid(content), "size": len(content), "pointerSize": 130}
    return entries


def _wanted_bytes(header: str | None, size: int) -> tuple[int, int]:
    if header is None:
        return 0, size
    start, _, end = header.removeprefix("bytes=").partition("-")
    return int(start), min(size, int(end) + 1) if end else size


_REPOSITORY = "(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_FILES_OF = "(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"

ROUTES: list[tuple[str, Callable[..., None]]] = [
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"POST /api/{_REPOSITORY}/preupload/(?P<revision>.+)", _Handler.preupload),
    (f"POST /api/{_REPOSITORY}/commit/(?P<revision>.+)", _Handler.commit),
    (f"POST /api/{_REPOSITORY}/branch/(?P<revision>.+)", _Handler.branch),
    (f"POST /{_FILES_OF}\\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT /lfs/(?P<oid>.+)", _Handler.put),
    ("POST /api/spaces/(?P<name>[^/]+/[^/]+)/variables", _Handler.variable),
    (f"GET /api/{_REPOSITORY}", _Handler.info),
    (f"GET /api/{_REPOSITORY}/refs", _Handler.refs),
    (f"GET /api/{_REPOSITORY}/revision/(?P<revision>.+)", _Handler.info),
    (f"GET /api/{_REPOSITORY}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    (f"POST /api/{_REPOSITORY}/paths-info/(?P<revision>.+)", _Handler.paths_info),
    (f"(?:GET|HEAD) /{_FILES_OF}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
