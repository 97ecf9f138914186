"""A server on this machine that answers as the Hugging Face hub does, as far as we ask it.

It keeps what was committed in memory; `files` of a repository is what it holds.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_the_owner"


class FakeHub:
    """What the server holds."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.unknown: list[str] = []
        """Requests that the server has no answer to."""


@contextmanager
def serve() -> Iterator[tuple[str, FakeHub]]:
    """The address of a server, and what it holds."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, value: Any, status: int = 200, **headers: str) -> None:
            body = json.dumps(value).encode()
            self._answer(status, body, Content_Type="application/json", **headers)

        def _may(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            if not self._may():
                return self._json({"error": "not yours"}, 403)
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                hub.repositories.setdefault(name, {})
                return self._json({"url": f"{address}/{name}"})
            match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
            if match is None:
                hub.unknown.append(f"POST {path}")
                return self._json({"error": "what?"}, 404)
            if match[2] == "preupload":
                named = [file["path"] for file in json.loads(body)["files"]]
                mode = {"uploadMode": "regular", "shouldIgnore": False}
                return self._json({"files": [{"path": name, **mode} for name in named]})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    hub.repositories[match[1]][line["value"]["path"]] = content
            return self._json(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{address}/{match[1]}"}
            )

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            model = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(/revision/[^/]+|/tree/[^/]+)?", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
            name = (model or file or {1: ""})[1]
            if name not in hub.repositories or (name in hub.private and not self._may()):
                code = {"X_Error_Code": "RepoNotFound", "X_Error_Message": "Repository not found"}
                return self._json({"error": "Repository not found"}, 404, **code)
            held = hub.repositories[name]
            if file is not None:
                if file[2] not in held:
                    return self._json({"error": "no"}, 404, X_Error_Code="EntryNotFound")
                etag = hashlib.sha1(held[file[2]]).hexdigest()
                return self._answer(200, held[file[2]], ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
            if model is not None and model[2] and model[2].startswith("/tree"):
                return self._json(
                    [
                        {"type": "file", "path": p, "size": len(c), "oid": COMMIT}
                        for p, c in held.items()
                    ]
                )
            siblings = [{"rfilename": path} for path in held]
            return self._json({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []})

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address, hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
