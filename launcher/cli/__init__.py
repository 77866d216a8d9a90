"""The command line: the only package that prints or exits."""

import sys

import typer

from launcher.cli import control, debug, devcluster, logs, recipe, status, submit
from launcher.errors import LauncherError

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
app.command()(submit.submit)
app.command()(submit.render)
app.command()(status.status)
app.command()(logs.logs)
for command in (control.stop, control.resume, control.cancel, control.save, control.sync):
    app.command()(command)
app.command()(debug.debug)
app.add_typer(devcluster.app, name="devcluster")


def main() -> None:
    """Run the command line; a user's mistake is one line per fault and exit code 2."""
    try:
        app()
    except LauncherError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
