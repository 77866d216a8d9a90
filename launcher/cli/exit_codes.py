"""Every exit code there is, and what it means: of commands, and of the jobs and ranks that carry out runs."""

import os
import signal
from dataclasses import dataclass

from launcher.run.paths import CONTINUE, DOES_NOT_FIT, FINISHED, NEVER_RESTART


@dataclass(frozen=True)
class ExitCode:
    """One exit code; an empty text: it does not occur there."""

    command: str
    """What it means of a command of `launcher`."""
    job: str
    """What it means of a job, the batch process of a run."""
    rank: str
    """What it means of a rank."""


EXIT_CODES = {
    FINISHED: ExitCode(
        "done; `submit --wait`: all runs finished",
        "the run has finished; this starts the runs that wait for it (`submit --after`, Slurm's `afterok`)",
        "finished",
    ),
    1: ExitCode(
        "Slurm failed, the disk is full or protected, or you said no; `doctor`: there are problems; `corpus verify`: "
        "flaws; `corpus diff`, `devcluster chaos --against`: they differ; `stacks`: a rank did not answer; "
        "`submit --wait`: not all runs finished",
        "a requeued job found that its run was stopped or has given up; else as the ranks",
        "a failure, with its traceback in the rank's log",
    ),
    2: ExitCode("you can mend it: a recipe, a profile, a command line, the name of a run; a line says how", "", ""),
    os.EX_IOERR: ExitCode("", "the run directory cannot be written; nothing was started", ""),
    CONTINUE: ExitCode("`debug`: saved", "saved, since a person stopped the run", "saved; continue me"),
    DOES_NOT_FIT: ExitCode(
        "`debug`: a micro batch does not fit", "a micro batch does not fit", "start me with a smaller micro batch"
    ),
    NEVER_RESTART: ExitCode(
        "`debug`, `chat`: the recipe, the model or the data is at fault",
        "as the ranks; the run is not restarted",
        "never restart: the recipe or the data is at fault",
    ),
    128 + signal.SIGHUP: ExitCode("`watch`: its terminal was closed", "", ""),
    128 + signal.SIGINT: ExitCode("interrupted by Ctrl-C; runs go on", "", ""),
    128 + signal.SIGTERM: ExitCode("`watch`: it was ended", "ended by SIGTERM", "ended by SIGTERM"),
}
"""By number. A code that is not here is that of a program that a command started (`attach`, `debug`), or a failure."""
