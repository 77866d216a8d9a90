"""`launcher watch`: one look at many runs, and the picture that is drawn of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.text import Text

from launcher.cli.live_screen import ChangedLines, split_keys
from launcher.cli.views.sparkline import sparkline
from launcher.cli.views.watch_view import WatchState, bar, clean, frame, next_event
from launcher.cluster import Cluster
from launcher.monitor.goodput import measure_goodput
from launcher.monitor.watch import LiveRuns, Look, RunWatch
from launcher.run.paths import RunDir
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.run_histories import MIDNIGHT, History

SQUEUE = """#!/bin/sh
echo call >> "{calls}"
echo '7|RUNNING|2026-09-21T14:00:00|2026-09-21T20:00:00|a[1-2]|None'
echo '8|PENDING|2026-09-21T19:00:00|N/A||Resources'
"""


@pytest.fixture
def calls(tmp_path: Path, fake_slurm: FakeSlurm) -> Path:
    """The calls of squeue, a line each."""
    (fake_slurm.bin / "squeue").write_text(SQUEUE.format(calls=tmp_path / "calls"))
    return tmp_path / "calls"


@pytest.fixture
def running(calls: Path, tmp_path: Path) -> History:
    """A run that was preempted once and goes on; what it redid has another loss."""
    history = History.begin(tmp_path / "runs").submit("7", at=0).start(0, "7", at=60).train(0, 0, 30, at=70)
    history.record.cluster = {"slurm": {"lead": "5min"}, "roots": {}}
    history.record.write(history.run.record)
    history.end(0, "preempted", "requeue", at=140, last_step=20).start(1, "7", at=200).train(1, 20, 40, at=210, loss=1)
    history.log(1, 0, "loading", "step 40  loss 1.0")
    return history


@pytest.fixture
def queued(tmp_path: Path) -> History:
    return History.begin(tmp_path / "runs", "def456", "later").submit("8", at=0)


@pytest.fixture
def look(running: History, queued: History, make_cluster: Callable[..., Cluster]) -> Look:
    return RunWatch(make_cluster(), lambda: [running.run, queued.run], 5).look()


def text_of(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


def test_slurm_is_asked_once_for_all_runs(look: Look, calls: Path) -> None:
    assert [one.status.state for one in look.runs] == ["running", "queued"]
    assert len(calls.read_text().splitlines()) == 1


def test_a_later_look_reads_on_and_agrees_with_reading_everything(
    running: History, make_cluster: Callable[..., Cluster]
) -> None:
    watch = RunWatch(make_cluster(), lambda: [running.run])
    first = watch.look().runs[0]
    running.train(1, 40, 43, at=250, loss=0.5)
    [later] = watch.look().runs

    assert first.losses[-1] == (40, 1.0) and later.losses[-1] == (43, 0.5)
    assert dict(later.losses)[25] == 1.0  # the loss that counts is that of the later attempt
    assert later.goodput == measure_goodput(running.run)
    assert first.goodput.redone_steps == 10 and later.goodput.useful_steps == 43


def test_the_picture_has_all_runs_and_the_details_of_the_chosen_one(look: Look, queued: History) -> None:
    shown = text_of(frame(look, WatchState(), 100, 40))

    assert shown.startswith("1 running, 1 queued")
    assert "> abc123  tiny cpt  running" in shown and "━━━━━━━━────────────  40%" in shown
    assert "40 of 100 (40%), loss 1.0000, 512 tokens/s" in shown
    assert "2 to 1\n" in shown
    assert "asked to save about" in shown and "time limit at" in shown
    assert "40 useful steps, 10 redone" in shown
    assert "step 40  loss 1.0" in shown

    chosen = text_of(frame(look, WatchState(folder=str(queued.run.root)), 100, 40))
    assert "> def456  later" in chosen
    assert "waits for free nodes (Resources)" in chosen and "as Slurm estimates now" in chosen


def test_what_comes_next_are_the_request_to_save_and_the_time_limit(look: Look) -> None:
    running, queued = (one.status for one in look.runs)

    assert running.time_limit is not None and running.saves_at == running.time_limit - 300
    assert queued.time_limit is None and next_event(queued).startswith("starts about")


@pytest.mark.parametrize("height", [8, 12, 24, 50])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_picture_fits_into_its_window(look: Look, height: int, count: int) -> None:
    many = Look(look.time, (look.runs * 20)[:count], ("one", "two", "three"))
    lines = frame(many, WatchState(message="asked"), 60, height)

    assert len(lines) == height
    assert max(line.cell_len for line in lines) <= 60
    assert "quit" in lines[-1].plain


def test_the_log_takes_the_place_of_the_other_runs(look: Look) -> None:
    shown = text_of(frame(look, WatchState(shows_log=True), 100, 40))

    assert "def456" not in shown and "loading\nstep 40  loss 1.0" in shown


def test_a_terminal_without_unicode_gets_ascii(look: Look) -> None:
    shown = text_of(frame(look, WatchState(), 100, 40, is_unicode=False))

    assert shown.isascii() and "########------------" in shown


def test_a_log_cannot_move_the_cursor() -> None:
    assert clean("\x1b[2J\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b1A\tx") == "red1A   x"


def test_choosing_goes_round(look: Look) -> None:
    state = WatchState()
    places = []
    for by in (1, 1, -1):
        state.move(look, by)
        places.append(state.place(look))

    assert places == [1, 0, 1]


def test_a_curve_goes_from_its_lowest_to_its_highest_value() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 10) == "█▇▆▅▄▃▂▁"
    assert sparkline([1, 1, 3, 3, float("nan"), 5, 5], 3) == "▁▅█"
    assert (sparkline([1], 5), sparkline([2, 2], 5)) == ("", "▁▁")
    assert bar(0.5, 4, True).plain == "━━──" and bar(None, 3, False).plain == "---"


def test_only_changed_lines_are_sent() -> None:
    sent: list[str] = []
    screen = ChangedLines(sent.append)
    screen.draw(["one", "two", "three"])
    sent.clear()

    screen.draw(["one", "TWO"])
    screen.draw(["one", "TWO"])

    assert sent == ["\x1b[2;1HTWO\x1b[0m\x1b[K\x1b[3;1H\x1b[0m\x1b[K"]


def test_keys_that_arrive_together_are_told_apart() -> None:
    assert [*split_keys("j\x1b[A\x1bOBq\x1b[15~")] == ["down", "up", "down", "q", "\x1b[15~"]


def test_without_names_what_is_not_over_is_watched_to_its_end(
    running: History, queued: History, tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    over = History.begin(tmp_path / "runs", "aaa111", "old").submit("5", at=0).start(0, "5", at=1)
    over.end(0, "finished", "done", at=9)
    runs = [queued.run, running.run, over.run]
    live = LiveRuns(make_cluster(), lambda: runs)

    first = live()
    queued.start(0, "8", at=20).end(0, "finished", "done", at=30)
    runs.insert(0, RunDir(History.begin(tmp_path / "runs", "bbb222", "new").submit("8", at=40).run.root))

    assert first == [queued.run, running.run]
    assert live() == [runs[0], queued.run, running.run]


def test_without_a_terminal_one_picture_is_printed(running: History, tmp_path: Path) -> None:
    roots = {name: str(tmp_path / name) for name in ("runs", "data", "corpora", "models")}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"name": "site", "roots": roots}))
    profile = f"--cluster={tmp_path / 'cluster.yaml'}"

    text, _ = launcher("watch", profile)
    found = json.loads(launcher("watch", "abc123", "--json", profile)[0])

    assert "tiny cpt  abc123  cpt  running (squeue)" in text and "quit" not in text and "\x1b" not in text
    launcher("watch", "--svg", str(tmp_path / "watch.svg"), profile)
    svg = (tmp_path / "watch.svg").read_text()
    assert "tiny&#160;cpt" in svg and "quit" in svg and "@font-face" not in svg
    assert {*re.findall(r"https?://[^/\s\"]+", svg)} == {"http://www.w3.org", "https://www.textualize.io"}
    [run] = found["runs"]
    assert (run["step"], run["lines"], run["goodput"]["redone_steps"]) == (40, ["step 40  loss 1.0"], 10)
    assert found["time"] > MIDNIGHT
    assert "no run below" in launcher("watch", "zzz", profile, code=2)[1]
