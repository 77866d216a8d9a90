"""Every command that the documents and recipes tell people to type is one that the program takes."""

from itertools import pairwise
from pathlib import Path

import pytest

from launcher.errors import RecipeError
from launcher.load import load_recipes
from launcher.load.pipeline import is_pipeline, load_pipeline
from tests.support.typed_commands import (
    console_commands,
    header_commands,
    inline_commands,
    launcher_commands,
    why_refused,
)

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for name in ("bench", "docs", "recipes") for path in (ROOT / name).rglob("*.md"))]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_parser_takes_every_command(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    refused = [(words, why_refused(words)) for words in console_commands(text)]
    refused += [(words, why_refused(words, is_partial=True)) for words in inline_commands(text)]

    assert [" ".join(words) + f": {why}" for words, why in refused if why] == []


def test_the_parser_takes_every_command_in_the_head_of_a_recipe() -> None:
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    typed = [(path.name, words) for path in recipes for words in header_commands(path.read_text(encoding="utf-8"))]

    assert len(typed) > len(recipes)
    assert [(name, why) for name, words in typed if (why := why_refused(words))] == []


def test_what_commands_set_in_shipped_recipes_are_keys_of_theirs() -> None:
    texts = [path.read_text(encoding="utf-8") for path in [*DOCUMENTS, *(ROOT / "recipes").rglob("*.yaml")]]
    ways = (console_commands, inline_commands, header_commands)
    typed = [words for text in texts for find in ways for words in find(text)]
    settings = [(words, named) for words in typed if (named := settings_of(words))]

    assert len(settings) > 8
    assert [(words, keys) for words, named in settings if (keys := unknown_keys(words, *named))] == []


def settings_of(words: list[str]) -> tuple[list[Path], list[str]] | None:
    """The shipped recipes of a command, and what it sets in them."""
    files = [ROOT / word for word in words if word.startswith("recipes/") and word.endswith(".yaml")]
    values = [value for option, value in pairwise(words) if option == "--set"]
    return (files, values) if files and values else None


def unknown_keys(words: list[str], files: list[Path], values: list[str]) -> list[str]:
    try:
        for file in files:
            load = load_pipeline if is_pipeline(file) else load_recipes
            load(file, values, rehearse="--rehearse" in words)
    except RecipeError as error:
        return [fault.key for fault in error.faults if fault.code in ("unknown-key", "structure")]
    return []


def test_documents_hold_commands_to_check() -> None:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]

    assert sum(1 for text in texts for _ in console_commands(text)) > 150
    assert sum(1 for text in texts for _ in inline_commands(text)) > 150


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("launcher submitt a.yaml", "launcher: no such command"),
        ("launcher corpus", "launcher corpus: no such command"),
        ("launcher submit", "launcher submit: Missing parameter"),
        ("launcher submit --rehearsal a.yaml", "launcher submit: No such option"),
        ("launcher submit a.yaml --max-parallel two", "launcher submit: "),
        ("launcher logs A B C D", "launcher logs: "),
        ("launcher attach RUN -- ps -ef", None),
        ("launcher attach RUN -e", "launcher attach: No such option"),
        ("launcher schema > a.json", None),
        ("launcher submit --after RUN a.yaml", None),
    ],
)
def test_a_command_that_does_not_exist_is_found(typed: str, why: str | None) -> None:
    [words] = launcher_commands(typed)
    said = why_refused(words)

    assert said is None if why is None else said is not None and said.startswith(why)


def test_a_line_of_a_shell_is_taken_apart() -> None:
    text = "```console\n$ mkdir a; launcher stop RUN && launcher resume RUN >log  # again\nlauncher is said\n```\n"

    assert [*console_commands(text)] == [["stop", "RUN"], ["resume", "RUN"]]
    assert [*inline_commands("so `launcher\nwatch` shows")] == [["watch"]]
    assert [*header_commands("# Try:\n#   launcher submit \\\n#       a.yaml\n")] == [["submit", "a.yaml"]]
