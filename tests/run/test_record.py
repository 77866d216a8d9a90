"""run.json is replaced as a whole or not at all."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from launcher.run.record import RunRecord, Submitted


def test_what_a_newer_launcher_wrote_can_be_read_by_the_code_that_a_run_was_queued_with(tmp_path: Path) -> None:
    """`launcher resume` rewrites run.json; the run's snapshot stays as old as the run."""
    path = tmp_path / "run.json"
    record = RunRecord("7f3a2b", "pretrain", "cpt", "", 0.0, "", None, "", "", {"name": "dev"})
    record.write(path)
    path.write_text(path.read_text().replace('"id"', '"invented_later": 1, "id"', 1))

    assert RunRecord.read(path) == record


def test_a_disk_that_is_full_leaves_the_record_as_it_was(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "run.json"
    record = RunRecord("7f3a2b", "pretrain", "cpt", "", 0.0, "", None, "", "", {"name": "dev"})
    record.write(path)

    record.submissions.append(Submitted("12", "/runs/.submissions/1", 0.0))
    with file_size_limit(path.stat().st_size + 20), pytest.raises(OSError, match="too large"):
        record.write(path)

    assert RunRecord.read(path).submissions == []
