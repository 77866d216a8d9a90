"""Manual pages: one for each command, with all its options, that `man` can show."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from launcher.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def man() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_man_pages", ROOT / "docs" / "man_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(command: Any, name: str) -> dict[str, Any]:
    inner = getattr(command, "commands", {})
    if not inner:
        return {name: command}
    return {key: one for part in inner for key, one in commands(inner[part], f"{name}-{part}").items()}


def test_each_command_has_a_page_with_its_options(man: ModuleType) -> None:
    pages, known = dict(man.man_pages()), commands(typer.main.get_command(app), "launcher")

    overview = pages["launcher.1"].replace("\\-", "-")

    assert pages.keys() == {"launcher.1", *(f"{name}.1" for name in known)}
    for name, command in known.items():
        page = pages[f"{name}.1"].replace("\\-", "-")
        assert all(option in page for one in command.params for option in one.opts if option.startswith("-"))
        assert re.search(rf"^\.B {name.replace('-', '.')}$", overview, re.MULTILINE)


def test_text_is_never_taken_for_a_request(man: ModuleType) -> None:
    assert man._roff(".SH `a-b` \\") == "\\&.SH a\\-b \\e"
    for text in dict(man.man_pages()).values():
        requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
        assert requests <= {".TH", ".SH", ".B", ".I", ".BR", ".TP", ".PP"}


def test_the_pages_are_written_and_man_shows_them(man: ModuleType, tmp_path: Path) -> None:
    man.main(tmp_path / "man")

    assert (tmp_path / "man" / "launcher-corpus-show.1").is_file()
    if (groff := shutil.which("groff")) is None:
        pytest.skip("groff is not installed")
    shown = subprocess.run(
        [groff, "-man", "-Tascii", "-ww", str(tmp_path / "man" / "launcher-status.1")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stderr == "" and "--json" in re.sub("\x1b\\[[0-9;]*m|.\b", "", shown.stdout)
