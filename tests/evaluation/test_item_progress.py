"""What rank 0 notes of finished items: rows for people, and for the restart policy what is safe."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.evaluation import item_progress
from jobs.evaluation.item_progress import NOTE_SECONDS, ItemProgress
from launcher.run.ledger import read_attempts, read_json_lines
from tests.support.evaluation_runs import evaluation

TASK = {"type": "choice", "name": "t", "format": "choice", "files": "./q.jsonl"}


def test_the_ledger_is_a_hundredth_of_the_attempt_behind_at_most_and_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, clock = evaluation(tmp_path, TASK), SimpleNamespace(now=0.0)
    monkeypatch.setattr(item_progress, "time", SimpleNamespace(monotonic=lambda: clock.now))

    with ItemProgress(context, {"a": 7, "b": 2}, 9009) as progress:
        for second in range(1, 9001):  # an item each second
            clock.now = float(second)
            progress.tell("a", 7 + second)

    begin, *notes = read_json_lines(context.run.ledger)
    assert (begin["first_step"], begin["last_step"], begin["total_steps"]) == (9, 9, 9009)
    safe = [note["last_step"] - 9 for note in notes]
    assert safe[0] == 1, "the first item is noted at once: it may have taken hours"
    assert all(later - earlier <= 1 + max(NOTE_SECONDS, earlier / 100) for earlier, later in pairwise(safe))
    assert safe[-1] == 9000
    assert len(notes) < 400


def test_an_attempt_that_fails_leaves_what_is_safe(tmp_path: Path) -> None:
    context = evaluation(tmp_path, TASK)

    with pytest.raises(ValueError, match="row 3"), ItemProgress(context, {"a": 0}, 10) as progress:
        for items in (2, 4, 6):
            progress.tell("a", items)
        raise ValueError("row 3")

    [attempt] = read_attempts(context.run.ledger)
    assert (attempt.first_step, attempt.last_step) == (0, 6)
    assert read_json_lines(context.run.metrics)[-1]["step"] == 6
