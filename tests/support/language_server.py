"""The YAML language server, talked to as an editor does: https://microsoft.github.io/language-server-protocol."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ABILITIES = {
    "workspace": {"configuration": True, "workspaceFolders": True},
    "textDocument": {"publishDiagnostics": {}, "completion": {"completionItem": {"snippetSupport": True}}},
}


class LanguageServer:
    """A running server, whose editor has some settings and a folder open."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path, settings: Mapping[str, Any]) -> None:
        self._process, self._folder, self._settings, self._number = process, folder, settings, 0
        where = {"uri": folder.as_uri(), "name": "folder"}
        start = {"processId": None, "rootUri": folder.as_uri(), "workspaceFolders": [where], "capabilities": _ABILITIES}
        self.ask("initialize", start)
        self._send({"method": "initialized", "params": {}})
        self._send({"method": "workspace/didChangeConfiguration", "params": {"settings": settings}})

    def open(self, name: str, text: str) -> dict[int, str]:
        """Open a file; return what is underlined: the first message on each line, which count from 1."""
        uri = (self._folder / name).as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        while True:
            said = self._receive()
            if said.get("method") == "textDocument/publishDiagnostics" and said["params"]["uri"] == uri:
                found = said["params"]["diagnostics"]
                return {one["range"]["start"]["line"] + 1: one["message"] for one in reversed(found)}

    def complete(self, name: str, line: int, character: int) -> list[str]:
        """Name what is offered at a place of an open file; both count from 0."""
        found = self.ask("textDocument/completion", self._place(name, line, character))
        return [one["label"] for one in found["items"]]

    def explain(self, name: str, line: int, character: int) -> str:
        """Return what is shown about a place of an open file."""
        return str(self.ask("textDocument/hover", self._place(name, line, character))["contents"])

    def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """Ask for something and return the answer."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while True:
            said = self._receive()
            if said.get("id") == self._number and "method" not in said:
                return said["result"]

    def _place(self, name: str, line: int, character: int) -> dict[str, Any]:
        document = {"uri": (self._folder / name).as_uri()}
        return {"textDocument": document, "position": {"line": line, "character": character}}

    def _receive(self) -> dict[str, Any]:
        """Wait for what the server says next; answer what it asks on the way."""
        assert self._process.stdout is not None
        size = 0
        while (line := self._process.stdout.readline()) != b"\r\n":
            assert line, "the language server has ended"
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        said: dict[str, Any] = json.loads(self._process.stdout.read(size))
        if "id" in said and "method" in said:
            items = said["params"]["items"] if said["method"] == "workspace/configuration" else []
            self._send({"id": said["id"], "result": [self._settings.get(one.get("section")) for one in items]})
        return said

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()


@contextmanager
def language_server(program: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[LanguageServer]:
    """Run a server for an editor that has a folder open.

    Args:
        program: Path of `yaml-language-server`.
        folder: What the editor has open.
        settings: By section, such as `yaml`.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([program, "--stdio"], **pipes) as process:  # type: ignore[call-overload]
        try:
            yield LanguageServer(process, folder, settings)
        finally:
            process.kill()
