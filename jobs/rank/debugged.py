"""`python -m jobs.rank.debugged RUN_DIR --attempt N`: a rank of a debug session, one of which has a debugger.

`LAUNCHER_DEBUGGER` says which rank: `pdb:3`.
"""

import os
import pdb
import runpy
import traceback
from bdb import BdbQuit

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
    _, _, wanted = os.environ[DEBUGGER].partition(":")
    if ranks_from(os.environ).rank != int(wanted):
        _run()
    else:
        _run_under_pdb()


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


if __name__ == "__main__":
    main()
