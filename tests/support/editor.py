"""An editor that is attached to a program by the Debug Adapter Protocol, as VS Code is.

https://microsoft.github.io/debug-adapter-protocol/specification: JSON messages behind a header with their length.
"""

import json
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

PATIENCE = 120


class Editor:
    """A debugger's other side."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._stream = self._socket.makefile("rb")
        self._sent = 0
        self._seen: list[dict[str, Any]] = []

    def __enter__(self) -> "Editor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def attach(self, file: str, line: int) -> None:
        """Attach, with a breakpoint, and let the program go on."""
        self.ask("initialize", adapterID="debugpy", linesStartAt1=True, pathFormat="path")
        attaching = self._send("attach", {"justMyCode": False})
        self.wait_for(lambda message: message.get("event") == "initialized")
        made = self.ask("setBreakpoints", source={"path": file}, breakpoints=[{"line": line}])
        assert made["breakpoints"][0]["verified"], made
        self.ask("configurationDone")
        self.wait_for(lambda message: message.get("request_seq") == attaching)

    def wait_for_stop(self) -> int:
        """Wait until the program stops at a breakpoint; return the frame it is in."""
        stopped = self.wait_for(lambda message: message.get("event") == "stopped")["body"]
        self.thread = stopped["threadId"]
        found = self.ask("stackTrace", threadId=self.thread, levels=1)["stackFrames"]
        return int(found[0]["id"])

    def evaluate(self, expression: str, frame: int) -> str:
        """Evaluate an expression in a frame; return its text."""
        return str(self.ask("evaluate", expression=expression, frameId=frame, context="repl")["result"])

    def go_on(self) -> None:
        """Let the program go on to its end."""
        self.ask("continue", threadId=self.thread)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request; return the body of its answer."""
        number = self._send(command, arguments)
        answer = self.wait_for(lambda message: message.get("request_seq") == number)
        assert answer["success"], answer
        body: dict[str, Any] = answer.get("body", {})
        return body

    def wait_for(self, is_it: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message of that kind, which may have come before."""
        while True:
            for message in self._seen:
                if is_it(message):
                    self._seen.remove(message)
                    return message
            self._seen.append(self._read())

    def _send(self, command: str, arguments: Mapping[str, Any]) -> int:
        self._sent += 1
        text = json.dumps({"seq": self._sent, "type": "request", "command": command, "arguments": arguments})
        self._socket.sendall(f"Content-Length: {len(text)}\r\n\r\n{text}".encode())
        return self._sent

    def _read(self) -> dict[str, Any]:
        length = 0
        while header := self._stream.readline().strip():
            length = int(header.partition(b":")[2])
        message: dict[str, Any] = json.loads(self._stream.read(length))
        return message
