"""Runs of somebody else: what a refusal of the file system or of Slurm means then."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from launcher.errors import RunError, SlurmError
from launcher.run.paths import RunDir
from launcher.slurm.command import complaint


@contextmanager
def naming_the_owner(run: RunDir) -> Iterator[None]:
    """Say whose a run is, if what is done in this block is refused because it is not ours.

    Raises:
        RunError: Its folder cannot be written, or its processes cannot be ended.
        SlurmError: Slurm ends its job for nobody else. The run has been asked to stop by then.
    """
    try:
        yield
    except PermissionError:
        if _is_ours(run):
            raise
        owner = _owner(run)
        raise RunError(
            f"`{run.root.name}`: is a run of `{owner}`, and you may not write into its folder or end its processes; "
            f"ask `{owner}`"
        ) from None
    except SlurmError as error:
        if _is_ours(run):
            raise
        raise SlurmError(
            f"`{run.root.name}`: is a run of `{_owner(run)}`, whose job Slurm ends for nobody else "
            f"({complaint(error)}); the run was asked to stop: it saves and stops, or ends when it starts"
        ) from None


def _is_ours(run: RunDir) -> bool:
    return run.root.stat().st_uid == os.geteuid()


def _owner(run: RunDir) -> str:
    number = run.root.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
