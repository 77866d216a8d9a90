"""Very many files, and very many documents: listed, finalised and published for real."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def carry_out(folder: Path, files: int, documents: int, *options: str) -> dict[str, Any]:
    argv = ["--files", str(files), "--documents", str(documents), *options]
    command = [sys.executable, "-m", "tests.support.many_sources", str(folder), *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("files", "documents"), [(300, 20), pytest.param(250, 20_000, marks=pytest.mark.long)])
def test_citations_of_many_documents_are_finalised_in_little_memory(tmp_path: Path, files: int, documents: int) -> None:
    found = carry_out(tmp_path, files, documents, "--citations")

    replaced = (files - 1) * documents // 10
    assert found["dropped"] == {"superseded": replaced}
    assert found["documents"] == files * documents - replaced
    assert found["memory"] < 2_000_000_000


@pytest.mark.parametrize("files", [400, pytest.param(100_000, marks=pytest.mark.long)])
def test_many_files_that_hold_hardly_anything_become_one_shard(tmp_path: Path, files: int) -> None:
    found = carry_out(tmp_path, files, 1)

    assert (found["documents"], found["shards"]) == (files, 1)
    assert found["manifest_bytes"] < 1000 * files
    assert found["memory"] < 3_000_000_000
