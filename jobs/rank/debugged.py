"""`python -m jobs.rank.debugged RUN_DIR --attempt N`: a rank of a debug session, one of which has a debugger.

`LAUNCHER_DEBUGGER` says which rank, and which debugger: `pdb:3`, `debugpy:0`.
"""

import os
import pdb
import runpy
import traceback
from bdb import BdbQuit

from jobs.rank.preflight import node_name
from jobs.rank.ranks import ranks_from
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
    debugger, _, wanted = os.environ[DEBUGGER].partition(":")
    if ranks_from(os.environ).rank != int(wanted):
        _run()
    elif debugger == "pdb":
        _run_under_pdb()
    else:
        _run_under_debugpy(int(wanted))


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


def _run_under_debugpy(rank: int) -> None:
    """Wait until an editor has connected; only programs of this node can."""
    import debugpy

    _, port = debugpy.listen(("127.0.0.1", 0))
    print(
        f"rank {rank} waits for a debugger on 127.0.0.1:{port} of {node_name()}; where your editor is, type\n"
        f"  ssh -N -L {port}:127.0.0.1:{port} {node_name()}\n"
        f"and attach it to localhost:{port}. Whoever may log in to {node_name()} can attach one, too.",
        flush=True,
    )
    debugpy.wait_for_client()
    print("a debugger is attached", flush=True)
    _run()


if __name__ == "__main__":
    main()
