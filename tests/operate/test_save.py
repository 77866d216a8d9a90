"""`launcher save`: what can save a checkpoint is asked, all else is told why not, and no request is left behind."""

from pathlib import Path

import pytest

from tests.support.command_line import launcher
from tests.support.run_histories import History


@pytest.fixture
def site(tmp_path: Path) -> str:
    roots = ", ".join(f"{name}: {tmp_path}/{name}" for name in ("runs", "data", "corpora", "models"))
    (tmp_path / "site.yaml").write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\n")
    return f"--cluster={tmp_path}/site.yaml"


@pytest.fixture
def running(tmp_path: Path) -> History:
    """Its job is one of which nobody can be asked here, so that its folder is believed."""
    return History.begin(tmp_path / "runs").submit("7", at=0).start(0, "7", at=1)


def test_a_training_that_runs_is_asked(running: History, site: str) -> None:
    said, _ = launcher("save", "abc123", site)

    assert said == f"{running.run.root.name}: asked to save after the current step\n"
    assert running.run.save_request.exists()


@pytest.mark.parametrize(
    ("reason", "action", "said"),
    [
        ("finished", "done", "is finished already; nothing to save"),
        ("error", "stop", "is failed already; nothing to save"),
        ("stopped", "stop", "is stopped already; nothing to save"),
        ("preempted", "requeue", "is requeued; nothing to save"),
    ],
)
def test_a_run_that_does_not_run_is_not(running: History, site: str, reason: str, action: str, said: str) -> None:
    running.end(0, reason, action, at=9)  # type: ignore[arg-type]

    assert said in launcher("save", "abc123", site, code=2)[1]
    assert not running.run.save_request.exists()


def test_a_run_that_was_never_queued_is_not(tmp_path: Path, site: str) -> None:
    run = History.begin(tmp_path / "runs").run

    assert "is not submitted already; nothing to save" in launcher("save", "abc123", site, code=2)[1]
    assert not run.save_request.exists()


def test_a_kind_without_checkpoints_is_not(running: History, site: str) -> None:
    running.record.kind = "prepare"
    running.record.write(running.run.record)

    said = launcher("save", "abc123", site, code=2)[1]

    assert "`kind: prepare` keeps what is done as it goes; only runs that train save checkpoints" in said
    assert not running.run.save_request.exists()
