"""`python -m jobs RUN_DIR [--attempt N]`: one task of one attempt.

Exit codes: 0 finished, 75 saved and to be continued, 76 a micro batch does not fit, 78 never to be restarted,
anything else a failure.
"""

import argparse
import atexit
import contextlib
import errno
import gc
import importlib
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType

from jobs.runtime.stop import StopFlag
from jobs.runtime.watchdog import WATCHDOG

STOP = StopFlag()
exit_codes = [1]
"""The last one counts; a task that ends by an exception leaves it at 1."""


def end_at_once() -> None:
    """End the process when everything else that wanted to happen at its end has happened.

    Taking the interpreter with torch and NCCL apart takes seconds, in which the first rank that is
    through makes srun end the others, and it can hang for ever.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_codes[-1])


if __name__ == "__main__":
    STOP.install()  # before the imports below, which take seconds that a preemption does not wait for
    WATCHDOG.start(os.environ)
    atexit.register(end_at_once)  # the first one registered is the last one called
    gc.disable()  # until all is imported

from pydantic import ValidationError  # noqa: E402

from jobs.runtime.context import Context, Ranks, load_context  # noqa: E402
from jobs.runtime.micro_batch import DoesNotFitError  # noqa: E402
from jobs.runtime.packages import require_packages  # noqa: E402
from jobs.runtime.preflight import UnfitNodeError, node_name, preflight  # noqa: E402
from jobs.runtime.rendezvous import ranks_from  # noqa: E402
from jobs.runtime.secrets import load_secrets  # noqa: E402
from jobs.runtime.withheld import say_invalid, withholding  # noqa: E402
from launcher.errors import LauncherError  # noqa: E402
from launcher.ledger import append_event  # noqa: E402
from launcher.paths import CONTINUE, DOES_NOT_FIT, FINISHED, NEVER_RESTART, RunDir  # noqa: E402


def main() -> int:
    """Carry out this task's part of the run; return the exit code."""
    options = _parse()
    ranks = Ranks(*ranks_from(os.environ))
    who = f"rank {ranks.rank} on {node_name()}"
    if ranks.is_main:
        WATCHDOG.keep(RunDir(options.run.absolute()).heartbeat(options.attempt))
    try:
        context = load_context(RunDir(options.run.absolute()), options.attempt, ranks)
        load_secrets(context.record.cluster.get("secrets_file"), context.recipe.secrets)
        with withholding(context.recipe):
            return _work(context)
    except (LauncherError, ValidationError) as error:
        fault = say_invalid(error) if isinstance(error, ValidationError) else error
        return _announce(NEVER_RESTART, options, f"{who}: {fault}")
    except DoesNotFitError as error:
        return _announce(DOES_NOT_FIT, options, f"{who}: {error}")
    except UnfitNodeError as error:
        print(f"preflight: {error}", file=sys.stderr, flush=True)
        return 1
    except BrokenProcessPool:
        what = "a worker process was killed, mostly because the memory was used up"
        return _announce(1, options, f"{who}: {what}; ask for more `resources.memory`, or fewer `cpus_per_task`")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f": {error.filename}" if error.filename else ""
        return _announce(1, options, f"{who}: {error.strerror}{where}")


def _work(context: Context) -> int:
    require_packages(context.recipe)
    meeting = preflight(context)
    kind = _import_kind(context.recipe.kind)
    code: int = kind.main(context, STOP)
    if meeting is not None and code in (FINISHED, CONTINUE):
        meeting.leave()
    return code


def _import_kind(name: str) -> ModuleType:
    """Import what carries out a kind of recipe.

    Modules are no garbage: looking for some among them took a quarter of the time of the imports, and would take more
    in each collection during the work (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    kind = importlib.import_module(f"jobs.{name}")
    gc.freeze()
    gc.enable()
    return kind


def _announce(code: int, options: argparse.Namespace, fault: str) -> int:
    """Say what does not work: in the log, and in a line for the verdict and those who ask how the run is doing."""
    print(fault, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        append_event(RunDir(options.run).ledger, options.attempt, fault=fault.partition("\n")[0], announced=code)
    return code


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs", description="Carry out one task of one attempt of a run.")
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument(
        "--attempt", type=int, default=os.environ.get("LAUNCHER_ATTEMPT", "0"), help="number of the attempt"
    )
    return parser.parse_args()


if __name__ == "__main__":
    exit_codes.append(main())
