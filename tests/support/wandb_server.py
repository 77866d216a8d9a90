"""As much of W&B's server as its real client needs to start, feed, finish and resume a run, and an agent to get runs.

Loopback only.

Two interfaces: GraphQL for everything about runs, and `file_stream`, to which the client sends
history lines with the offset of the first.
"""

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

ENTITY = {"id": "entity", "name": "tester", "organization": None}
STREAM = re.compile(r"/files/[^/]+/[^/]+/(?P<run>[^/]+)/file_stream")
OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")


@dataclass
class StoredRun:
    """What the server holds of a run."""

    project: str
    group: str | None = None
    config: str = "{}"
    summary: str = "{}"
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    """One for each time the client said the run was over."""
    preempting: bool = False
    sweep: str | None = None
    stopped: bool = False
    """Somebody pressed `Stop run` on its page."""
    deleted: bool = False
    """Its id is never given out again (https://github.com/wandb/wandb/issues/6395)."""


class WandbServer(ThreadingHTTPServer):
    """Runs by id, and everything that was ever received."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, StoredRun] = {}
        self.operations: list[str] = []
        self.received: list[bytes] = []
        self.sweeps: dict[str, list[dict[str, Any]]] = {}
        """By `ENTITY/PROJECT/ID` the commands that agents get, one each time one asks."""
        self.agents: list[str] = []
        """The sweep of each agent."""

    @property
    def url(self) -> str:
        """For WANDB_BASE_URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the client resets idle connections."""

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0911 - one each
        """Answer a GraphQL operation; unknown ones with nothing, which the client takes for `not supported`."""
        name = variables.get("name") or variables.get("runName") or variables.get("run")
        project = variables.get("project") or variables.get("model") or "uncategorized"
        match operation:
            case "Viewer":
                return {
                    "viewer": {
                        "id": "user",
                        "entity": "tester",
                        "username": "tester",
                        "flags": "{}",
                        "teams": {"edges": []},
                    }
                }
            case "RunResumeStatus":
                return {"model": {"id": "project", "name": project, "entity": ENTITY, "bucket": self._bucket(name)}}
            case "UpsertBucket":
                return {"upsertBucket": self._upsert(name, project, variables)}
            case "CreateRunFiles":
                files = [
                    {"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in variables.get("files", [])
                ]
                return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": files}}
            case "Run":
                there = name in self.runs and not self.runs[name].deleted
                return {"project": {"run": {"id": name} if there else None}}
            case "DeleteRun":
                self.runs[variables["id"]].deleted = True
                return {"deleteRun": {"clientMutationId": None}}
            case _:
                return self._answer_agent(operation, variables)

    def give(self, sweep: str, run: str, **values: Any) -> None:
        """Let a sweep give a run next; `__` in the name of a key stands for a dot."""
        args = {key.replace("__", "."): {"value": value} for key, value in values.items()}
        self.sweeps.setdefault(sweep, []).append({"type": "run", "run_id": run, "args": args})

    def end_sweep(self, sweep: str) -> None:
        """Let a sweep give nothing more."""
        self.sweeps.setdefault(sweep, []).append({"type": "exit"})

    def _answer_agent(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "CreateAgent":
            return {"createAgent": self._join(variables)}
        if operation == "Heartbeat":
            agent = variables["id"]
            return {"agentHeartbeat": {"agent": {"id": agent}, "commands": self._next_command(agent)}}
        return {}

    def _join(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        sweep = "/".join(variables[key] for key in ("entityName", "projectName", "sweep"))
        if sweep not in self.sweeps:
            return None
        self.agents.append(sweep)
        return {"agent": {"id": str(len(self.agents) - 1)}}

    def _next_command(self, agent: str) -> str:
        """Write the next command as JSON; `exit` stays."""
        commands = self.sweeps[self.agents[int(agent)]]
        is_last = bool(commands) and commands[0]["type"] == "exit"
        return json.dumps(commands[:1] if is_last else [commands.pop(0)] if commands else [])

    def stream(self, name: str, body: dict[str, Any]) -> None:
        """Take history lines, the summary, and the end of a run."""
        run = self.runs[name]
        for file, chunk in (body.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run.history[chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]
            elif file == "wandb-summary.json":
                run.summary = chunk["content"][-1]
        run.preempting = run.preempting or bool(body.get("preempting"))
        if body.get("complete"):
            run.exit_codes.append(body["exitcode"])

    def _upsert(self, name: str, project: str, variables: dict[str, Any]) -> dict[str, Any]:
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(project))
        run.config = variables.get("config") or run.config
        run.group = variables.get("groupName") or run.group
        run.sweep = variables.get("sweep") or run.sweep
        bucket = {
            "id": name,
            "name": name,
            "displayName": variables.get("displayName") or name,
            "description": None,
            "config": run.config,
            "sweepName": None,
            "historyLineCount": len(run.history),
            "project": {"id": "project", "name": run.project, "entity": ENTITY},
        }
        return {"bucket": bucket, "inserted": inserted}

    def _bucket(self, name: str) -> dict[str, Any] | None:
        """What a client that resumes needs to know; `wandbConfig.t` tells it that the run was started before."""
        run = self.runs.get(name)
        if run is None or run.deleted:
            return None
        tail = [json.dumps(line) for line in run.history[-1:]]
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "sweepName": None,
            "summaryMetrics": run.summary,
            "historyLineCount": len(run.history),
            "historyTail": json.dumps(tail),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "config": run.config,
            "tags": [],
            "wandbConfig": json.dumps({"t": {"1": [1]}}),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer
    timeout: ClassVar[float] = 60

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        stream = STREAM.fullmatch(self.path)
        if stream and self.server.runs[stream["run"]].deleted:
            self._reply({"error": "run not found"}, 404)
            return
        if stream:
            self.server.stream(stream["run"], body)
            self._reply({"stopped": self.server.runs[stream["run"]].stopped})
            return
        operation = body.get("operationName") or OPERATION.search(body["query"])[1]
        self.server.operations.append(operation)
        variables = body.get("variables") or {}
        if operation == "UpsertBucket" and (run := self.server.runs.get(variables.get("name"))) and run.deleted:
            message = f"run {variables['name']} was previously created and deleted; try a new run id"
            self._reply(
                {"errors": [{"message": message, "path": ["upsertBucket"]}], "data": {"upsertBucket": None}}, 409
            )
            return
        self._reply({"data": self.server.answer(operation, variables)})

    def _body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        self.server.received.append(content)
        return content

    def _reply(self, answer: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Serve until the end of the block."""
    server = WandbServer()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
