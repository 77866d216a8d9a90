"""`python -m jobs.rank.debugged RUN_DIR --attempt N`: a rank of a debug session, one of which has a debugger.

`LAUNCHER_DEBUGGER` says which rank and which debugger: `pdb:3`, `debugpy:3`.
"""

import os
import pdb
import runpy
import sys
import traceback
from bdb import BdbQuit

from jobs.rank.ranks import ranks_from
from jobs.rank.required_packages import require_extras
from launcher.errors import LauncherError
from launcher.run.batch_process import DEBUGGER


class RankDebugger(pdb.Pdb):
    """A pdb that knows files by where they really are.

    `RUN/code` is a link to the code. pdb follows it to find the file of `b jobs/kinds/cpt.py:40`, but takes names of
    files that run as they are, and would never stop there.
    """

    def canonic(self, filename: str) -> str:
        """Return the one name of a file."""
        if filename not in self.fncache and not filename.startswith("<"):
            self.fncache[filename] = os.path.realpath(filename)
        return super().canonic(filename)


def main() -> None:
    """Become the rank."""
    name, _, wanted = os.environ[DEBUGGER].partition(":")
    if ranks_from(os.environ).rank != int(wanted):
        _run()
    elif name == "pdb":
        _run_under_pdb()
    else:
        _run_under_debugpy()


def _run() -> None:
    runpy.run_module("jobs", run_name="__main__", alter_sys=True)


def _run_under_pdb() -> None:
    """Stop before the first line, and again where an exception ends the rank."""
    print("before the first line; for example `b jobs/kinds/cpt.py:40`, then `c`", flush=True)
    try:
        RankDebugger().set_trace()
        _run()
    except BdbQuit:
        os._exit(1)
    except Exception:
        traceback.print_exc()
        pdb.post_mortem()
        os._exit(1)


def _run_under_debugpy() -> None:
    """Wait for an editor to attach, then run."""
    try:
        require_extras("--debugpy", ["debug"])
    except LauncherError as error:
        sys.exit(str(error))
    import debugpy

    _, port = debugpy.listen(("127.0.0.1", 0))
    node = os.uname().nodename
    print(
        f"waits for an editor at port {port} of {node}; the code is {os.path.realpath('code')}\n"
        f"on your computer: ssh -N -L 5678:127.0.0.1:{port} -J LOGIN-NODE {node}",
        flush=True,
    )
    debugpy.wait_for_client()
    print("an editor is attached", flush=True)
    _run()


if __name__ == "__main__":
    main()
