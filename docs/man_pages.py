"""Manual pages of all commands, made from the parser: `python docs/man_pages.py FOLDER`, or `make man`."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main

from launcher import __version__
from launcher.cli import app
from launcher.cli.exit_codes import EXIT_CODES


def man_pages() -> Iterator[tuple[str, str]]:
    """Write the page of each command, and one that lists them: the name of each file and its text."""
    commands = [*_commands(typer.main.get_command(app), "launcher")]
    yield "launcher.1", "\n".join(_overview(commands))
    for name, command in commands:
        yield f"{name.replace(' ', '-')}.1", "\n".join(_page(name, command))


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for part in inner:
        yield from _commands(inner[part], f"{name} {part}")


def _overview(commands: list[tuple[str, Any]]) -> Iterator[str]:
    program = typer.main.get_command(app)
    yield _head("launcher", program.help or "")
    yield ".SH SYNOPSIS\n.B launcher\n.I COMMAND\n[options]\n.SH COMMANDS"
    for name, command in commands:
        yield f".TP\n.B {_roff(name)}\n{_roff(_sentences(command)[0])}"
    yield from _options(program, typer.Context(program, info_name="launcher"))
    yield ".SH EXIT STATUS"
    for code, what in sorted(EXIT_CODES.items()):
        if what.command:
            yield f".TP\n.B {code}\n{_roff(what.command)}"
    yield ".SH ENVIRONMENT"
    yield ".TP\n.B LAUNCHER_CLUSTER\nName or file of the cluster profile, instead of\n.BR --cluster ."
    yield ".TP\n.B NO_COLOR\nIf set, nothing is printed in colours."


def _page(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    yield _head(name, _sentences(command)[0])
    yield f".SH SYNOPSIS\n.B {_roff(name)}\n{_roff(' '.join(command.collect_usage_pieces(context)))}"
    yield ".SH DESCRIPTION\n" + "\n.PP\n".join(map(_roff, _paragraphs(command)))
    yield from _options(command, context)
    yield ".SH SEE ALSO\n.BR launcher (1)"


def _options(command: Any, context: Any) -> Iterator[str]:
    records = [record for option in command.params if (record := option.get_help_record(context))]
    yield ".SH OPTIONS"
    for names, said in records:
        yield f".TP\n.B {_roff(names)}\n{_roff(' '.join(said.split()))}"


def _head(name: str, purpose: str) -> str:
    title = name.replace(" ", "-")
    return f'.TH {title.upper()} 1 "" "launcher {__version__}"\n.SH NAME\n{_roff(title)} \\- {_roff(purpose.strip())}'


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(one.split()) for one in inspect.cleandoc(command.help or "").split("\n\n")]


def _sentences(command: Any) -> list[str]:
    return re.split(r"(?<=\.)\s", _paragraphs(command)[0])


def _roff(text: str) -> str:
    """Write text so that roff takes none of it for a request, and options keep their hyphens."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def main(folder: Path) -> None:
    """Write all pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in man_pages():
        (folder / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
