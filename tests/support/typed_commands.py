"""Commands that documents tell people to type, and whether the real parser takes them."""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import takewhile

import typer
import typer.main

from launcher.cli import app

_COMMAND = typer.main.get_command(app)
_PLACEHOLDER = re.compile(r"[A-Z]+")
"""`N`, `RANK`: what the reader replaces by a number or a name."""
_EVERYWHERE = {"-q", "--quiet", "-v", "--verbose"}
"""What may stand before a command as well."""


def console_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each `launcher ...` line in the console blocks of a document."""
    for block in re.findall(r"```console\n(.*?)```", text.replace("\\\n", ""), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield from launcher_commands(line.removeprefix("$ "))


def inline_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the prose of a document; what is required may be left out there."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for typed in re.findall(r"`(launcher\s[^`]+)`", prose):
        yield from launcher_commands(" ".join(typed.split()))


def header_commands(recipe: str) -> Iterator[list[str]]:
    """Yield the words of each command in the comments of a recipe."""
    for typed in re.findall(r"^# +(launcher .*)", re.sub(r"\\\n# *", "", recipe), re.MULTILINE):
        yield from launcher_commands(typed)


def launcher_commands(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of `launcher` in a shell's line, without redirections."""
    words = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
    words.whitespace_split = True
    calls: list[list[str]] = [[]]
    is_target = False
    for word in words:
        if word and set(word) <= set(";|&"):
            calls.append([])
        elif not is_target and not _redirects(word):
            calls[-1].append(word)
        is_target = _redirects(word)
    yield from (call[1:] for call in calls if call[:1] == ["launcher"])


def _redirects(word: str) -> bool:
    return word != "" and set(word) <= set("<>")


def why_refused(arguments: Sequence[str], is_partial: bool = False) -> str | None:
    """Parse a command as the program does, and carry nothing out.

    Args:
        arguments: What follows `launcher`.
        is_partial: Whether what is required may be missing.

    Returns:
        What the parser says against it; None if it takes it.
    """
    command, path = _COMMAND, ["launcher"]
    words = ["1" if _PLACEHOLDER.fullmatch(word) else word for word in arguments if word not in ("...", "--help")]
    words = words[len(list(takewhile(_EVERYWHERE.__contains__, words))) :]
    while words and words[0] in getattr(command, "commands", {}):
        path.append(words[0])
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    if hasattr(command, "commands"):
        # Options of a whole program act as soon as they are parsed: only names are checked.
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        is_known = set(words) <= known and (is_partial or words)
        return None if is_known else f"{' '.join(path)}: no such command"
    try:
        command.make_context(" ".join(path), words, help_option_names=[])
    except typer.TyperException as error:
        said = str(error)
        is_rest_missing = said.startswith("Missing parameter") or said.endswith("requires an argument.")
        return None if is_partial and is_rest_missing else f"{' '.join(path)}: {said}"
    return None
