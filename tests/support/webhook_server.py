"""A chat's webhook on the loopback interface: it keeps what it was told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


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

    class _Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Content-Type"] == "application/json" and [*body] == ["text"]
            heard.texts.append(body["text"])
            heard.may_answer.wait()
            self.send_response(heard.code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    heard.address = f"http://127.0.0.1:{server.server_address[1]}/services/T0/B0/sEcReT"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        heard.may_answer.set()
        server.shutdown()
        server.server_close()
        thread.join()
