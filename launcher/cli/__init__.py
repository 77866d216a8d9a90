"""The command line: the only package that prints or exits."""

import errno
import sys
from typing import Annotated

import typer

from launcher import __version__
from launcher.cli import (
    attach,
    chat,
    compare,
    corpus,
    debug,
    demo,
    devcluster,
    doctor,
    graph,
    logs,
    nodes,
    operate,
    pipeline,
    plan,
    recipe,
    report,
    search,
    shipped,
    status,
    submit,
    sweep,
    usage,
    watch,
    why,
)
from launcher.cli.verbosity import TalkingGroup
from launcher.errors import LauncherError
from launcher.run.home import NoHomeError
from launcher.run.typed import DamagedFileError

NO_BUGS = (
    *(errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS, errno.ESTALE),
    *(errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENOENT, errno.ENAMETOOLONG),
)
"""Errors of a full or protected file system, or of a path that leads to no file: a traceback explains nothing."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"launcher {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="launcher",
    cls=TalkingGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Submit biomedical language-model training to Slurm, watch it, debug it and resume it."""


app.command()(recipe.validate)
app.command()(recipe.schema)
app.command()(shipped.recipes)
app.command()(recipe.init)
app.command()(plan.plan)
app.command()(doctor.doctor)
app.command()(submit.submit)
app.command()(submit.render)
app.command()(status.status)
app.command()(watch.watch)
app.command()(why.why)
app.command()(report.report)
app.command()(usage.usage)
app.command()(logs.logs)
for command in (operate.stop, operate.resume, operate.cancel, operate.save, operate.sync):
    app.command()(command)
app.command()(debug.debug)
app.command()(demo.demo)
app.command()(attach.attach)
app.command()(attach.stacks)
app.command()(chat.chat)
app.command()(graph.graph)
app.command()(compare.compare)
app.add_typer(corpus.app, name="corpus")
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(sweep.app, name="sweep")
app.add_typer(search.app, name="search")
app.add_typer(nodes.app, name="nodes")
app.add_typer(devcluster.app, name="devcluster")


def run() -> int:
    """Run the command line; a user's mistake is one line per fault and exit code 2, a full disk one line and 1.

    Returns:
        The exit code.
    """
    try:
        app()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except (LauncherError, NoHomeError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - typer is over
        return getattr(error, "exit_code", 2)
    except DamagedFileError as error:
        print(f"{error}; copy it again, or remove its folder if you no longer need it", file=sys.stderr)  # noqa: T201 - typer is over
        return 2
    except OSError as error:
        if error.errno not in NO_BUGS:
            raise
        print(f"{error.filename or 'disk'}: {error.strerror}", file=sys.stderr)  # noqa: T201 - typer is over
        return 1
    return 0
