"""`--quiet` and `--verbose`: how much every command says on stderr beside its result.

Results are on stdout and stay as they are. `tell` writes progress and hints, which `--quiet` leaves out; warnings,
questions and errors are written always. `--verbose` adds what the process does: Python itself reports each file that
is opened and each program that is started, so that no code has to remember to say so, and decisions are logged by the
module that takes them.
"""

import contextlib
import logging
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

_PACKAGE = str(Path(__file__).resolve().parents[1])
_MACHINE = ("/proc/", "/sys/", "/dev/", "/usr/")
_PACKAGES = {"site-packages", "dist-packages"}
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_CODE = (".py", ".pyc", ".so", ".pth")
_QUIET = "Print results, warnings and errors only: no progress, no hints."
_VERBOSE = "Also say on stderr which files are read and written, which programs are called, and what is decided."
_DECISIONS = logging.getLogger("launcher")


class Verbosity(IntEnum):
    """How much is said on stderr."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class _OwnLines(threading.local):
    is_saying = False
    """Whether this thread is writing a line of `--verbose`: that may open files itself."""


class _Decisions(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


_level = Verbosity.NORMAL
_is_hooked = False
_own_lines = _OwnLines()


def tell(text: str) -> None:
    """Write a line of progress or a hint on stderr, unless the command is to be quiet."""
    if not is_quiet():
        typer.echo(text, err=True)


def is_quiet() -> bool:
    """Tell whether progress and hints are left out."""
    return _level is Verbosity.QUIET


def set_verbosity(level: Verbosity) -> None:
    """Choose how much the commands of this process say on stderr."""
    global _level, _is_hooked  # noqa: PLW0603 - a process has one command line
    _level = level
    _DECISIONS.handlers = [_Decisions()] if level is Verbosity.VERBOSE else [logging.NullHandler()]
    _DECISIONS.setLevel(logging.INFO if level is Verbosity.VERBOSE else logging.WARNING)
    if level is Verbosity.VERBOSE and not _is_hooked:
        _is_hooked = True
        sys.addaudithook(_report)  # for good: Python removes none


class TalkingGroup(TyperGroup):
    """The program, whose every command takes `--quiet` and `--verbose`; they may stand before the command, too."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        options = _options()  # once for all commands: making them takes longer than making most commands
        for command in (self, *_commands(self)):
            command.params += options


def _commands(group: TyperGroup) -> Iterator[TyperCommand]:
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            yield from _commands(command)
        else:
            yield cast(TyperCommand, command)


def _options() -> "list[Any]":
    """Make the two options of a command."""

    def choose(context: typer.Context, option: typer.CallbackParam, wanted: bool) -> None:
        if not wanted or context.resilient_parsing:  # the shell asks what may follow
            return
        level = Verbosity.QUIET if option.name == "quiet" else Verbosity.VERBOSE
        if _level not in (Verbosity.NORMAL, level):
            set_verbosity(Verbosity.NORMAL)
            raise typer.BadParameter("`--quiet` and `--verbose` contradict each other; leave one of them out")
        context.find_root().call_on_close(lambda: set_verbosity(Verbosity.NORMAL))
        set_verbosity(level)

    def options(
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", help=_QUIET, is_eager=True, callback=choose, expose_value=False)
        ] = False,
        verbose: Annotated[
            bool, typer.Option("--verbose", "-v", help=_VERBOSE, is_eager=True, callback=choose, expose_value=False)
        ] = False,
    ) -> None:
        assert quiet or verbose  # never called: only what typer makes of its parameters is wanted

    lender = typer.Typer(add_completion=False)
    lender.command()(options)
    return list(typer.main.get_command(lender).params)


def _report(event: str, arguments: tuple[Any, ...]) -> None:
    """Say what Python reports to audit hooks, see https://docs.python.org/3/library/audit_events.html."""
    if _level is not Verbosity.VERBOSE or _own_lines.is_saying:
        return
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes):
            _report_file(os.fsdecode(path), mode is None, bool(flags & (os.O_WRONLY | os.O_RDWR)))
    elif event == "subprocess.Popen":
        _, argv, _, environ = arguments
        _say(f"calls {_command_line(argv, os.environ if environ is None else environ)}")


def _report_file(path: str, is_low_level: bool, is_written: bool) -> None:
    """Say that a file is opened, unless it tells a user nothing: Python's own, the machine's, code and folders."""
    if is_low_level and not path.startswith("/"):  # it may lie in a folder that is open already: Python does not say
        return
    name = os.path.abspath(path)
    is_foreign = not name.startswith(_PACKAGE) and _PACKAGES.intersection(Path(name).parts)
    if is_foreign or name.startswith(_MACHINE) or name.endswith(_CODE) or name in sys.path or os.path.isdir(name):
        return
    _say(f"{'writes' if is_written else 'reads' if os.path.exists(name) else 'looks for'} {name}")


def _command_line(argv: str | Sequence[Any], environ: Mapping[Any, Any]) -> str:
    """Write a command so that it can be pasted into a shell, with the slurm.conf that it gets."""
    words = [argv] if isinstance(argv, str) else [os.fsdecode(word) for word in argv]
    conf = environ.get("SLURM_CONF")
    return (f"SLURM_CONF={shlex.quote(os.fsdecode(conf))} " if conf else "") + shlex.join(words)


def _say(text: str) -> None:
    text = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)  # a file's name may hold what moves the cursor
    _own_lines.is_saying = True
    with contextlib.suppress(OSError, ValueError):  # the reader of stderr went away
        typer.echo(f"[{text}]" if "\n" not in text else f"[{text.splitlines()[0]} ...]", err=True)
    _own_lines.is_saying = False
