"""The process that runs vLLM in another Python (`jobs.evaluation.vllm_worker`), as a rank sees it."""

import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from jobs.evaluation import vllm_worker
from jobs.rank.stop_flag import STOP, StopRequested
from jobs.rank.watchdog import WATCHDOG
from launcher.errors import LauncherError

SCRIPT = os.path.abspath(vllm_worker.__file__)
"""What the process runs."""
_KEPT_BYTES = 8192
_KEPT_LINES = 15
"""Of what the process said last on stderr, for messages."""
_LOOK_SECONDS = 1.0
"""How often to look whether the process is still there."""
_END_SECONDS = 30.0
"""How long the process may take to end by itself."""
_NOT_ITS_OWN = (
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
    *("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
"""Variables by which it would find our packages, or take itself for one of our ranks."""


class MemoryTakenError(RuntimeError):
    """Other processes use so much of the GPU's memory that vLLM does not start."""


class VllmProcess:
    """The process.

    Args:
        python: The interpreter.
        environment: Its environment.
        is_quotable: Whether messages may hold what it says; not if it may quote credentialed text.
    """

    def __init__(self, python: Path, environment: dict[str, str], is_quotable: bool) -> None:
        self._python = python
        self._environment = environment
        self._is_quotable = is_quotable
        self._process: subprocess.Popen[bytes] | None = None
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._unread = b""
        """What it answered, and nobody has taken."""
        self._said = b""

    @property
    def is_started(self) -> bool:
        """Whether the process was started."""
        return self._process is not None

    def start(self, settings: dict[str, Any]) -> None:
        """Start the process, and wait until it is ready.

        Args:
            settings: Its first line.

        Raises:
            LauncherError: it refuses the settings.
            MemoryTakenError: other processes use the GPU's memory; it has to be closed before it can start again.
            RuntimeError: it failed, or ended.
            StopRequested: it ended after a request to stop.
        """
        # The kernel ends the process if this one is gone.
        setpriv = shutil.which("setpriv")
        bound = [setpriv, "--pdeathsig=KILL", "--"] if setpriv else []
        pipe = subprocess.PIPE
        self._selector, self._unread, self._said = selectors.DefaultSelector(), b"", b""
        self._process = subprocess.Popen(
            [*bound, str(self._python), SCRIPT], env=self._environment, stdin=pipe, stdout=pipe, stderr=pipe
        )
        for stream in (self._process.stdout, self._process.stderr):
            self._selector.register(_opened(stream), selectors.EVENT_READ)
        self.ask(settings)

    def ask(self, content: dict[str, Any]) -> dict[str, Any]:
        """Send a line, and return the answer. Whatever the process says meanwhile counts as progress.

        Raises:
            LauncherError: it refuses what the line says.
            RuntimeError: it failed, or ended.
            StopRequested: it ended after a request to stop.
        """
        assert self._process
        try:
            _write(_opened(self._process.stdin).fileno(), json.dumps(content).encode() + b"\n")
        except BrokenPipeError:
            raise self._ended() from None
        answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            raise self._failed(answer)
        return answer

    def close(self) -> None:
        """End the process: it ends by itself when nothing more can be asked."""
        if self._process is None:
            return
        _opened(self._process.stdin).close()
        kill_at = time.monotonic() + _END_SECONDS
        while self._process.poll() is None and time.monotonic() < kill_at:
            if not self._read() and not self._selector.get_map():
                self._wait(kill_at - time.monotonic())
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            _opened(stream).close()
        self._selector.close()
        self._process = None

    def _wait(self, seconds: float) -> None:
        assert self._process
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, seconds))

    def _line(self) -> bytes:
        """Wait for a line on stdout."""
        while b"\n" not in self._unread:
            if not self._read() and self._process and self._process.poll() is not None:
                raise self._ended()
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _read(self) -> bool:
        """Read what is there; return whether something was."""
        assert self._process
        found = False
        for key, _ in self._selector.select(_LOOK_SECONDS):
            part = os.read(key.fd, 1 << 16)
            if not part:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._process.stdout:
                self._unread += part
            else:
                self._said = (self._said + part)[-_KEPT_BYTES:]
            found = found or bool(part)
        if found:
            WATCHDOG.heartbeat()
        return found

    def _failed(self, answer: dict[str, Any]) -> BaseException:
        if STOP.is_requested():
            return StopRequested()
        said = f": {' '.join(answer['message'].split())}" if self._is_quotable and answer["message"] else ""
        if answer["is_refusal"]:
            fix = ""
            if answer["memory"] == "little":
                fix = "; write a smaller `decoding.max_new_tokens`, or name GPUs with more memory"
            return LauncherError(f"engine: vLLM refuses to work ({answer['error']}{said}){fix}{self._tail()}")
        if answer["memory"] == "taken":
            return MemoryTakenError(
                f"vLLM finds too little free memory on its GPU ({answer['error']}{said}); end what else uses it"
                f"{self._tail()}"
            )
        return RuntimeError(f"vLLM failed ({answer['error']}{said}){self._tail()}")

    def _ended(self) -> BaseException:
        assert self._process
        code = self._process.wait()
        while self._selector.get_map() and self._read():
            pass  # what it said last
        return StopRequested() if STOP.is_requested() else RuntimeError(f"vLLM's process ended ({code}){self._tail()}")

    def _tail(self) -> str:
        if not self._is_quotable:
            return "; what it said is withheld: it may quote credentialed text"
        lines = self._said.decode(errors="replace").replace("\r", "\n").splitlines()
        return "".join(f"\n  {line}" for line in lines[-_KEPT_LINES:] if line.strip())


def environment_for(environ: Mapping[str, str], device: torch.device, secrets: Iterable[str]) -> dict[str, str]:
    """Return the environment of a process that computes for a rank.

    Args:
        environ: The rank's.
        device: The rank's; the process sees no other GPU.
        secrets: Names of variables that it has no use for.
    """
    kept = {name: value for name, value in environ.items() if name not in {*_NOT_ITS_OWN, *secrets}}
    kept["PYTHONSAFEPATH"] = "1"  # modules beside the script are none of its own
    if device.type == "cuda":
        visible = [one for one in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        index = device.index or 0
        kept["CUDA_VISIBLE_DEVICES"] = visible[index] if visible else str(index)
    return kept


def _write(descriptor: int, data: bytes) -> None:
    """Write all bytes."""
    while data:
        data = data[os.write(descriptor, data) :]


def _opened(stream: Any) -> Any:
    assert stream is not None
    return stream
