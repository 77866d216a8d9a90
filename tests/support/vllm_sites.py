"""A site whose profile names a Python that has vLLM: the tests' own, with `tests/support/fake_vllm`."""

import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.rank.context import Context
from launcher.run.ledger import read_json_lines
from tests.support.generation_runs import generation

FAKE = Path(__file__).parent / "fake_vllm"


def make_python(folder: Path, has_vllm: bool = True) -> Path:
    """Write a program that runs Python with the fake vLLM, and without ours."""
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / "packages" / "vllm-0.33.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n")
    path = f"{FAKE}:{described.parent}" if has_vllm else str(folder)
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\ncd /\nexec env PYTHONPATH="$PYTHONPATH${{PYTHONPATH:+:}}{path}" "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    return python


class VllmSite:
    """A folder with the Python, and what the fake vLLM noted.

    Args:
        folder: Where the Python lies.
        monkeypatch: Sets the fake's variables.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.python = make_python(folder / "vllm")
        self.python_path = f"{FAKE}:{self.python.parent / 'packages'}"
        """What the Python adds to what it inherits."""
        self._notes = folder / "vllm" / "notes.jsonl"
        monkeypatch.setenv("FAKE_VLLM_NOTES", str(self._notes))

    def generation(self, folder: Path, **changes: Any) -> Context:
        """The only rank of a `generate` with vLLM."""
        context = generation(folder, engine="vllm", **changes)
        context.record.cluster["engines"] = {"vllm": str(self.python)}
        return context

    def notes(self, what: str) -> list[dict[str, Any]]:
        """What was noted: each `load`, or each `batch`."""
        known = read_json_lines(self._notes) if self._notes.exists() else []
        return [one for one in known if what in one]

    def is_running(self) -> bool:
        """Whether one of the processes that loaded a model is still there."""
        return any(_is_alive(Path(f"/proc/{one['pid']}/stat")) for one in self.notes("load"))


def _is_alive(stat: Path) -> bool:
    try:
        return stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
