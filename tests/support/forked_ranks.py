"""Processes that start at once: forked from one that has imported torch, transformers and peft already.

`python -m jobs` imports for four seconds before it does anything, which is most of what a rank of a test takes. What is
forked runs the same lines with its own environment, arguments and output, and is ended by the same signals. Only the
order of sets is the same in all of them; on the dev cluster it is not, where ranks start as users' ranks do.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.support.fork_server_imports"])


class Forked:
    """A Python process with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        """Start it.

        Args:
            arguments: As after `python`: `-m MODULE ...`, or `-c SOURCE ...`.
            environ: All of its environment.
            log: Where its output goes.
        """
        self._process: ForkServerProcess = _SERVER.Process(
            target=_become, args=(list(arguments), dict(environ), str(log))
        )
        self._process.start()
        atexit.register(self.kill)  # multiprocessing would wait for what a failed test left behind

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended: its exit code, or the negative number of the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Tell how it ended; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> None:
        """Wait for its end, at most `timeout` seconds."""
        self._process.join(timeout)

    def kill(self) -> None:
        """End it without a chance to say anything."""
        self._process.kill()

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _become(arguments: list[str], environ: dict[str, str], log: str) -> None:
    """Do what `python ARGUMENTS > LOG 2>&1` does, from the imports on."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environ)
    option, program, *sys.argv[1:] = arguments
    code = 0
    try:
        if option == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(program, {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as the interpreter's own last line of defence
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)
