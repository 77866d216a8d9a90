"""Colours: on a terminal, unless NO_COLOR is set (https://no-color.org)."""

import os
import re
import shlex
import sys
from pathlib import Path

import pexpect

COLOUR = re.compile(r"\x1b\[[0-9;]*?\b(?:3[0-8]|9[0-7])(?:;[0-9;]*)?m")


def doctor(folder: Path, **environ: str) -> str:
    """Run a command that prints in colours, on a terminal."""
    roots = ", ".join(f"{name}: {folder}" for name in ("runs", "corpora", "models"))
    (folder / "cluster.yaml").write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\n")
    command = shlex.join([sys.executable, "-m", "launcher", "doctor", "--cluster", str(folder / "cluster.yaml")])
    environment = {**os.environ, "TERM": "xterm-256color", **environ}
    said, _ = pexpect.run(command, env=environment, withexitstatus=True, encoding="utf-8", timeout=None)
    return str(said)


def test_a_terminal_gets_colours_and_no_color_switches_them_off(tmp_path: Path) -> None:
    plain = doctor(tmp_path, NO_COLOR="1")

    assert COLOUR.search(doctor(tmp_path))
    assert "here" in plain and not COLOUR.search(plain)
