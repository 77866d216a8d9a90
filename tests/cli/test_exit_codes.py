"""The table of exit codes in the handbook: each code that the source can exit with, and no other."""

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from launcher import errors
from launcher.cli.exit_codes import EXIT_CODES
from launcher.run import paths

ROOT = Path(__file__).parents[2]
LEAVES = {"Exit", "SystemExit", "exit", "_exit"}


def literal_codes(folder: Path) -> Iterator[int]:
    """Yield the numbers that calls of `typer.Exit` and the like below a folder name."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", ""))
            if isinstance(node, ast.Call) and name in LEAVES:
                for part in (one for argument in node.args for one in ast.walk(argument)):
                    if isinstance(part, ast.Constant) and type(part.value) is int:
                        yield part.value


def codes_of_commands() -> set[int]:
    raised = {one.exit_code for one in vars(errors).values() if hasattr(one, "exit_code")}
    return {0, *raised, *literal_codes(ROOT / "launcher" / "cli")} - {128}  # 128 + the number of a signal


def test_each_code_of_a_command_is_in_the_table() -> None:
    assert codes_of_commands() >= {0, 1, 2}
    assert codes_of_commands() <= {code for code, what in EXIT_CODES.items() if what.command}


def test_each_code_of_ranks_and_jobs_is_in_the_table() -> None:
    of_ranks = {paths.FINISHED, paths.CONTINUE, paths.DOES_NOT_FIT, paths.NEVER_RESTART}
    named = {
        getattr(os, name)
        for path in (ROOT / "jobs" / "batch").glob("*.py")
        for name in re.findall(r"os\.(EX_\w+)", path.read_text(encoding="utf-8"))
    }

    assert of_ranks <= {code for code, what in EXIT_CODES.items() if what.rank and what.job}
    assert named <= {code for code, what in EXIT_CODES.items() if what.job}


def test_the_page_has_every_code_once() -> None:
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    [page] = [text for name, _, text in module.reference_pages() if name == "exit-codes"]

    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == sorted(EXIT_CODES)


def test_an_interrupted_command_exits_with_130(tmp_path: Path) -> None:
    """Ctrl-C while it waits for something: here for what is written into a pipe."""
    os.mkfifo(tmp_path / "recipe.yaml")
    argv = [sys.executable, "-m", "launcher", "validate", str(tmp_path / "recipe.yaml")]
    waiting = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(tmp_path / "recipe.yaml", "wb"):  # returns as soon as the command reads
        waiting.send_signal(signal.SIGINT)
        code = waiting.wait()

    assert code == 130 and EXIT_CODES[130].command
