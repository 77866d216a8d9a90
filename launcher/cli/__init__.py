"""The command line: the only package that prints or exits."""

import contextlib
import errno
import gc
import os
import sys
from typing import NoReturn

import typer

from launcher.cli import control, corpus, debug, devcluster, doctor, logs, recipe, status, submit
from launcher.errors import LauncherError

_NO_BUGS = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS, errno.ESTALE)
"""What a file system says of its room and of who may write; a traceback would not tell more."""

app = typer.Typer(
    name="launcher",
    help="Submit biomedical language-model training to Slurm; watch it, debug it, bring it back.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.command()(recipe.validate)
app.command()(recipe.schema)
app.command()(recipe.init)
app.command()(doctor.doctor)
app.command()(submit.submit)
app.command()(submit.render)
app.command()(status.status)
app.command()(logs.logs)
for command in (control.stop, control.resume, control.cancel, control.save, control.sync):
    app.command()(command)
app.command()(debug.debug)
app.add_typer(corpus.app, name="corpus")
app.add_typer(devcluster.app, name="devcluster")


def main() -> NoReturn:
    """Run the command line and leave at once.

    Looking for garbage while 400 modules are imported, and taking them apart at the end, is a quarter of the time of a
    `launcher submit`, for nothing: the process is over then, and whatever it wrote is written.
    """
    gc.set_threshold(1_000_000)  # instead of 700; commands that follow something for days are still cleaned up
    code = run()
    with contextlib.suppress(OSError):  # the reader, say `head`, went away, or the disk is full
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run() -> int:
    """Run the command line; a user's mistake is one line per fault and exit code 2, a full disk one line and 1.

    Returns:
        The exit code.
    """
    try:
        app()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except LauncherError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    except OSError as error:
        if error.errno not in _NO_BUGS:
            raise
        print(f"{error.filename or 'disk'}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
