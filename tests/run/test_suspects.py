"""Nodes that gave trouble: what is remembered, for how long, by whom, and when it is enough."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.run.paths import reports_root
from launcher.run.suspects import NodeReport, Trouble, find_suspects, is_node_name, read_reports, report_node

DAY = 86400.0
NOW = time.time()


def tell(runs: Path, node: str, trouble: Trouble, ago: float = 0, run: str = "ab12cd", attempt: int = 0) -> None:
    report_node(runs, NodeReport(node, trouble, NOW - ago, run, attempt))


def avoided(runs: Path) -> list[str]:
    return [one.node for one in find_suspects(runs, 7 * DAY, NOW + 1) if one.is_avoided]


def test_a_folder_that_is_replaced_by_a_link_while_it_is_made_opens_nothing_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, private = tmp_path / "runs", tmp_path / "private"
    runs.mkdir()
    runs.chmod(0o777)
    private.mkdir(mode=0o700)
    make = Path.mkdir

    def replaced(folder: Path, *given: object, **named: object) -> None:
        make(folder, *given, **named)  # type: ignore[arg-type]
        if folder == reports_root(runs):
            folder.rmdir()
            folder.symlink_to(private)

    monkeypatch.setattr(Path, "mkdir", replaced)

    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        tell(runs, "gpu01", "hung")

    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert list(private.iterdir()) == []


def test_reports_are_read_as_they_were_written_oldest_first(tmp_path: Path) -> None:
    tell(tmp_path, "gpu02", "hung", ago=5)
    tell(tmp_path, "gpu01", "failed the preflight check", ago=9)

    assert [(one.node, one.trouble, one.run) for one in read_reports(tmp_path)] == [
        ("gpu01", "failed the preflight check", "ab12cd"),
        ("gpu02", "hung", "ab12cd"),
    ]


@pytest.mark.parametrize(("trouble", "is_enough"), [("failed the preflight check", True), ("added by hand", True),
                                                    ("failed the preflight check as the only node", False),
                                                    ("hung", False), ("was slow", False)])  # fmt: skip
def test_one_failed_check_is_enough_and_one_hang_is_not(tmp_path: Path, trouble: Trouble, is_enough: bool) -> None:
    tell(tmp_path, "gpu01", trouble)

    assert avoided(tmp_path) == ["gpu01"] * is_enough
    assert len(find_suspects(tmp_path, DAY)) == 1


def test_troubles_of_two_attempts_are_enough_and_two_of_one_are_not(tmp_path: Path) -> None:
    for trouble in ("hung", "was slow"):
        tell(tmp_path, "gpu01", trouble, attempt=3)  # type: ignore[arg-type]
        tell(tmp_path, "gpu02", trouble, attempt=len(trouble))  # type: ignore[arg-type]

    assert avoided(tmp_path) == ["gpu02"]


def test_reports_expire(tmp_path: Path) -> None:
    tell(tmp_path, "gpu01", "failed the preflight check", ago=8 * DAY)
    tell(tmp_path, "gpu02", "failed the preflight check", ago=6 * DAY)

    [one] = find_suspects(tmp_path, 7 * DAY, NOW)

    assert one.node == "gpu02"
    assert one.until == pytest.approx(NOW + DAY)


def test_a_node_that_was_forgiven_is_judged_anew(tmp_path: Path) -> None:
    tell(tmp_path, "gpu01", "failed the preflight check", ago=50)
    tell(tmp_path, "gpu01", "forgiven", ago=40)
    assert find_suspects(tmp_path, DAY) == []

    tell(tmp_path, "gpu01", "hung", ago=30)

    [one] = find_suspects(tmp_path, DAY)
    assert [report.trouble for report in one.reports] == ["hung"]


def test_very_old_reports_are_removed(tmp_path: Path) -> None:
    tell(tmp_path, "gpu01", "hung", ago=100 * DAY)
    tell(tmp_path, "gpu02", "hung")

    assert [one.node for one in read_reports(tmp_path)] == ["gpu02"]


@pytest.fixture
def umask_of_credentialed_jobs() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask_of_credentialed_jobs")
def test_a_credentialed_job_shares_what_it_reports_with_whoever_may_use_the_folder_of_all_runs(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    tell(tmp_path, "gpu01", "hung")
    folder = reports_root(tmp_path)
    [path] = folder.iterdir()

    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_what_is_no_report_is_passed_over(tmp_path: Path) -> None:
    tell(tmp_path, "gpu01", "hung")
    folder = reports_root(tmp_path)
    for number, content in enumerate(("", "[]", '{"node": "gpu02"}', '{"node": "a b", "trouble": "hung", "time": 1}')):
        (folder / f"1-{number}.json").write_text(content)
    (folder / "note.txt").write_text("{}")
    (folder / "2-folder.json").mkdir()
    os.mkfifo(folder / "3-pipe.json")

    assert [one.node for one in read_reports(tmp_path)] == ["gpu01"]
    assert read_reports(tmp_path / "missing") == []


def test_what_another_user_wrote_does_not_change_the_terminal(tmp_path: Path) -> None:
    report_node(tmp_path, NodeReport("gpu01", "added by hand", NOW, note="a\x1b[2J\nb"))

    [one] = read_reports(tmp_path)
    assert one.note == "a [2J b"


@pytest.mark.parametrize(("text", "expected"), [("gpu01", True), ("a-b.c_1", True), ("gpu[01-04]", False), ("", False),
                                                ("../x", False), ("--all", False), ("a,b", False)])  # fmt: skip
def test_names_of_nodes(text: str, expected: bool) -> None:
    assert is_node_name(text) is expected
