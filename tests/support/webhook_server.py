"""A chat's webhook on the loopback interface: it keeps what it was told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

from tests.support.loopback_server import QuietHandler, serving


@dataclass
class Webhook:
    """What the server was told, and how it answers."""

    texts: list[str] = field(default_factory=list)
    code: int = 200
    may_answer: Event = field(default_factory=Event)
    """It does not answer before this is set."""
    address: str = ""


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Run the server."""
    heard = Webhook()
    heard.may_answer.set()

    class _Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 - as the base class calls it
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Content-Type"] == "application/json" and [*body] == ["text"]
            heard.texts.append(body["text"])
            heard.may_answer.wait()
            self.send_response(heard.code)
            self.end_headers()

    with serving(_Handler) as address:
        heard.address = f"{address}/services/T0/B0/sEcReT"
        try:
            yield heard
        finally:
            heard.may_answer.set()
