"""What the Hub answers to its own client that makes a repository and uploads files, on the loopback interface."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.loopback_server import QuietHandler, serving

_OID = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A Hub that may hold one repository."""

    private: bool | None = None
    """None: it is not there yet."""
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    address: str = ""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answer a request as https://huggingface.co/docs/hub/api says."""
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.private is None:
            return 404, {"error": "Repository not found"}
        if re.fullmatch("/api/models/[^/]+/[^/]+", path):
            return 200, {"id": path.removeprefix("/api/models/"), "private": self.private, "sha": _OID}
        lines = [json.loads(line) for line in body.splitlines()]
        if path.endswith("/preupload/main"):
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in lines[0]["files"]]
            return 200, {"files": files}
        if path.endswith("/commit/main"):
            added = [line["value"] for line in lines if line["key"] == "file"]
            self.files |= {one["path"]: base64.b64decode(one["content"]) for one in added}
            return 200, {"commitUrl": f"{self.address}/me/it/commit/{_OID}", "commitOid": _OID}
        return 404, {"error": f"{path} is not known here"}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        url = {"url": f"{self.address}/{wanted.get('organization', 'me')}/{wanted['name']}"}
        if self.private is not None:
            return 409, {"error": "You already created this model repo", **url}
        self.private = wanted["visibility"] == "private"
        return 200, url


@contextmanager
def hub_server(private: bool | None = None) -> Iterator[Hub]:
    """Run a Hub; `private` is said of the repository that it holds."""
    hub = Hub(private)

    class _Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 - as the base class calls it
            hub.tokens.add(self.headers["Authorization"])
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, answer = hub.answer(self.path.partition("?")[0], body)
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST  # noqa: N815 - as the base class calls it

    with serving(_Handler) as address:
        hub.address = address
        yield hub
