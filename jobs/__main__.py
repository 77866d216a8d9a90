"""`python -m jobs RUN_DIR [--attempt N]`: one rank of one attempt.

Exit codes: 0 finished; 75 saved, continue; 76 a micro batch does not fit; 78 never restart; anything else a failure.
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

from jobs.rank.stacks import answer_requests
from jobs.rank.stop_flag import STOP, StopRequested
from jobs.rank.watchdog import WATCHDOG

exit_codes = [1]
"""The last one counts; a rank that ends with an exception leaves it at 1."""


def end_at_once() -> None:
    """End the process after everything else that was registered for its end.

    Taking the interpreter down with torch and NCCL takes seconds, in which the first rank that is done makes srun end
    the others, and it can hang forever.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_codes[-1])


if __name__ == "__main__":
    STOP.install()  # before the imports below, which take seconds that a preemption does not wait for
    answer_requests()
    WATCHDOG.start(os.environ)
    atexit.register(end_at_once)  # the first one registered is the last one called
    gc.disable()  # until all is imported

from pydantic import ValidationError

from jobs.rank.context import Context, load_context
from jobs.rank.identity import note_identity
from jobs.rank.library_messages import hide_harmless_messages
from jobs.rank.preflight import UnfitNodeError, node_name, preflight
from jobs.rank.ranks import ranks_from
from jobs.rank.redact_errors import describe_invalid, redacting
from jobs.rank.required_packages import require_packages
from jobs.rank.secrets import load_secrets
from jobs.rank.transfer import is_under_way
from jobs.train.checkpoint_manifest import UnreadableCheckpointError
from jobs.train.micro_batch import DoesNotFitError
from launcher.errors import LauncherError
from launcher.run.ledger import append_event
from launcher.run.paths import CONTINUE, DOES_NOT_FIT, FINISHED, NEVER_RESTART, RunDir


def main() -> int:
    """Carry out this rank's part of the run; return the exit code."""
    options = _parse()
    hide_harmless_messages()
    ranks = ranks_from(os.environ)
    who = f"rank {ranks.rank} on {node_name()}"
    if ranks.is_main:
        WATCHDOG.set_heartbeat_file(RunDir(options.run.absolute()).heartbeat(options.attempt))
    try:
        context = load_context(RunDir(options.run.absolute()), options.attempt, ranks)
        load_secrets(context.record.cluster.get("secrets_file"), context.recipe.secrets)
        # Only rank 0 looks at the file: many ranks that ask a network file system at every step are a load. One that
        # does not answer for a moment is no request (`os.path.exists`), and no reason to end a training.
        request = context.run.stop_request
        with STOP.heeding(lambda: ranks.is_main and os.path.exists(request)), redacting(context.recipe):
            return _work(context)
    except (LauncherError, ValidationError) as error:
        fault = describe_invalid(error) if isinstance(error, ValidationError) else error
        return _announce(NEVER_RESTART, options, f"{who}: {fault}")
    except DoesNotFitError as error:
        return _announce(DOES_NOT_FIT, options, f"{who}: {error}")
    except UnfitNodeError as error:
        print(f"preflight: {error}", file=sys.stderr, flush=True)
        return 1
    except BrokenProcessPool:
        what = "a worker process was killed, probably out of memory"
        return _announce(1, options, f"{who}: {what}; ask for more `resources.memory`, or fewer `cpus_per_task`")
    except OSError as error:
        said = _explain(error)
        if said is None:
            raise
        return _announce(1, options, f"{who}: {said}")


def _explain(error: OSError) -> str | None:
    """Say in one line what is wrong with the file system; None if only the traceback tells."""
    if isinstance(error, UnreadableCheckpointError):
        return str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def _work(context: Context) -> int:
    require_packages(context.recipe)
    barrier = preflight(context)
    note_identity(context)
    kind = _import_kind(context.recipe.kind)
    code = FINISHED
    try:
        kind.main(context)
    except StopRequested:
        code = CONTINUE
    if barrier is not None:
        barrier.leave()
    return code


def _import_kind(name: str) -> ModuleType:
    """Import the module of a kind.

    The garbage collector need not look at modules: that took a quarter of the time of the imports, and would cost more
    in each later collection (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    kind = importlib.import_module(f"jobs.kinds.{name}")
    gc.freeze()
    gc.enable()
    return kind


def _announce(code: int, options: argparse.Namespace, fault: str) -> int:
    """Report a fault in the log and in the ledger, for the batch process and `launcher status`."""
    print(fault, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        append_event(RunDir(options.run).ledger, options.attempt, fault=fault.partition("\n")[0], announced=code)
    return code


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs", description="Carry out one rank of one attempt of a run.")
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument(
        "--attempt", type=int, default=os.environ.get("LAUNCHER_ATTEMPT", "0"), help="number of the attempt"
    )
    return parser.parse_args()


if __name__ == "__main__":
    exit_codes.append(main())
    if is_under_way():
        atexit._run_exitfuncs()  # Python would first wait for the threads that carry it out
