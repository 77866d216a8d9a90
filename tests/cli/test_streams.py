"""Where commands write: a terminal of another encoding, and streams that the caller has closed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.run_histories import History

LAUNCHER = f"{shlex.quote(sys.executable)} -m launcher"


@pytest.fixture
def site(tmp_path: Path) -> str:
    """A site with a run whose table and plot have characters that only Unicode has."""
    history = History.begin(tmp_path / "runs", name="π ─ μ").submit("local-1", at=0).start(0, "local-1", at=1)
    history.train(0, 0, 9, at=2)
    roots = ", ".join(f"{name}: {tmp_path}/{name}" for name in ("runs", "data", "corpora", "models"))
    (tmp_path / "site.yaml").write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\n")
    return f"--cluster={tmp_path}/site.yaml"


def run(line: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", line], env=os.environ | environ, capture_output=True, check=False)


def test_characters_that_the_terminal_does_not_have_become_question_marks(site: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("kind: cpt\nname: ✓\nπ: 1\n", encoding="utf-8")
    latin = {"PYTHONIOENCODING": "iso-8859-1"}

    shown = run(f"{LAUNCHER} status {site}", **latin)
    refused = run(f"{LAUNCHER} validate {tmp_path}/bad.yaml {site}", **latin)

    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"? ? ? " in shown.stdout  # U+03BC is not the sign of Latin-1
    assert refused.returncode == 2 and b"Traceback" not in refused.stderr
    assert b": \\u03c0: unknown key" in refused.stderr


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error(site: str, closed: str) -> None:
    for command in ("status abc123", "stacks nothing"):  # the first asks whether it prints on a terminal
        done = run(f"{LAUNCHER} {command} {site} {closed}")
        assert done.returncode == (2 if "nothing" in command else 0), command
        assert b"Traceback" not in done.stderr + done.stdout


def test_what_a_command_opens_takes_no_closed_streams_place(site: str, tmp_path: Path) -> None:
    """Else the file would get what is printed."""
    done = run(f"{LAUNCHER} watch --svg {tmp_path}/picture.svg {site} >&- 2>&-")

    assert done.returncode == 0
    assert (tmp_path / "picture.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
