"""A small Hugging Face Hub on 127.0.0.1, enough for the real huggingface_hub client to push and load.

It keeps every repository in memory as a list of commits, each a mapping of file name to bytes, and remembers every
request, so that a test can say what left the machine and what did not.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

REPO = r"/api/(?P<kind>model|dataset|space)s/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Repository:
    """What the Hub knows of one repository: its visibility, its commits by hash, where each branch or tag points."""

    visibility: str | None
    kind: str = "model"
    sdk: str | None = None
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    refs: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)

    def commit(self, branch: str, changes: dict[str, bytes | None]) -> str:
        files = {**self.commits[self.refs[branch]], **changes}
        sha = hashlib.sha1(repr((self.refs[branch], sorted(changes.items(), key=str))).encode()).hexdigest()
        self.commits[sha] = {name: content for name, content in files.items() if content is not None}
        self.refs[branch] = sha
        return sha


@dataclass
class LoopbackHub:
    """A running Hub: `url` for `HF_ENDPOINT`, its repositories, and the requests it has answered.

    With a `token`, only requests with it may write or ask who they are. The first `breaks` requests to a path that
    ends in `breaks_at` get no answer.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    token: str | None = None
    breaks_at: str = ""
    breaks: int = 0
    offered: set[str] = field(default_factory=set)  # every file name that a client announced, sent or not


def blob_id(content: bytes) -> str:
    """The name git gives a file's content; equal names tell the client that nothing has changed."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def make_handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test output quiet."""

        def answer(self, status: int, content: Any = b"", **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_request(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.breaks and path.endswith(hub.breaks_at):
                hub.breaks, self.close_connection = hub.breaks - 1, True
                return None
            asks_for_a_token = self.command == "POST" or path == "/api/whoami-v2"
            if hub.token and asks_for_a_token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer(401, {"error": "Invalid username or password."})
            if path == "/api/whoami-v2":
                return self.answer(200, {"type": "user", "name": "lab"})
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            for pattern, action in routes:
                found = re.fullmatch(pattern, path)
                if found is None:
                    continue
                repository, kind = hub.repositories.get(found["repo"]), found.groupdict().get("kind") or "model"
                if repository is None or repository.kind != kind:
                    return self.answer(404, X_Error_Code="RepoNotFound")
                return action(self, repository, body, found.groupdict())
            return self.answer(501, {"error": f"the loopback Hub has no {self.command} {path}"})

        do_GET = do_HEAD = do_POST = handle_request  # noqa: N815

        def create(self, wanted: dict[str, str]) -> None:
            repo_id = f"{wanted['organization']}/{wanted['name']}"
            status = 409 if repo_id in hub.repositories else 200
            made = Repository(wanted.get("visibility"), wanted.get("type", "model"), wanted.get("sdk"))
            kind = hub.repositories.setdefault(repo_id, made).kind
            self.answer(status, {"url": f"{hub.url}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"})

        def preupload(self, repository: Repository, body: bytes, part: dict[str, str]) -> None:
            files = json.loads(body)["files"]
            hub.offered.update(file["path"] for file in files)
            known = {name: blob_id(content) for name, content in repository.commits[repository.refs["main"]].items()}
            answers = [
                {
                    "path": file["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                    "oid": known.get(file["path"]),
                }
                for file in files
            ]
            self.answer(200, {"files": answers})

        def commit(self, repository: Repository, body: bytes, part: dict[str, str]) -> None:
            changes: dict[str, bytes | None] = {}
            for line in body.splitlines():
                operation = json.loads(line)
                if operation["key"] == "file":
                    changes[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
                elif operation["key"] == "deletedFile":
                    changes[operation["value"]["path"]] = None
            sha = repository.commit(part["revision"], changes)
            self.answer(200, {"commitUrl": f"{hub.url}/{part['repo']}/commit/{sha}", "commitOid": sha})

        def branch(self, repository: Repository, body: bytes, part: dict[str, str]) -> None:
            status = 409 if part["revision"] in repository.refs else 200
            repository.refs.setdefault(part["revision"], repository.refs["main"])
            self.answer(status, {})

        def describe(self, repository: Repository, body: bytes, part: dict[str, str | None]) -> None:
            sha = repository.resolve(part.get("revision") or "main")
            if sha is None:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": name} for name in repository.commits[sha]]
            header = repository.commits[sha].get("README.md", b"").decode().split("---\n")
            tags = (yaml.safe_load(header[1]) or {}).get("tags", []) if len(header) > 2 else []
            found = {"id": part["repo"], "sha": sha, "siblings": siblings, "tags": tags}
            return self.answer(200, found | {"private": repository.visibility != "public"})

        def tree(self, repository: Repository, body: bytes, part: dict[str, str]) -> None:
            sha = repository.resolve(part["revision"])
            if sha is None:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            files = repository.commits[sha].items()
            return self.answer(
                200, [{"type": "file", "path": name, "size": len(c), "oid": blob_id(c)} for name, c in files]
            )

        def file(self, repository: Repository, body: bytes, part: dict[str, str]) -> None:
            sha = repository.resolve(part["revision"])
            if sha is None:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            content = repository.commits[sha].get(part["file"])
            if content is None:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return self.answer(200, content, X_Repo_Commit=sha, ETag=f'"{blob_id(content)}"')

    routes = (
        (REPO + r"/preupload/(?P<revision>.+)", Handler.preupload),
        (REPO + r"/commit/(?P<revision>.+)", Handler.commit),
        (REPO + r"/branch/(?P<revision>.+)", Handler.branch),
        (REPO + r"/tree/(?P<revision>[^/]+)(/.*)?", Handler.tree),
        (REPO + r"(/revision/(?P<revision>.+))?", Handler.describe),
        (
            r"/(?:(?P<kind>dataset|space)s/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
            Handler.file,
        ),
    )
    return Handler


@contextmanager
def running_hub() -> Iterator[LoopbackHub]:
    """Start a Hub on a free port of the loopback device and stop it at the end."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
