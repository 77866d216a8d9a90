"""How long a rank may go without a heartbeat: what it learns from its own steps, saves and evaluations."""

from pathlib import Path

import pytest

from jobs.rank.pace import LEAST_SECONDS, TIMES, Pace
from launcher.run.heartbeat import Bound

LIMIT = 1800.0


class Rank:
    """A pace, and a clock that tests move."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.now = 0.0
        self.pace = Pace(limit, self.now)

    def beats(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.now += seconds
            self.pace.beat(self.now)

    def turns_to(self, what: str) -> None:
        self.pace.turn_to(what, self.now)

    def visits(self, what: str, *seconds: float) -> None:
        """Do something else once, a heartbeat after so many seconds each, and go on as before."""
        before = self.pace.doing
        self.turns_to(what)
        for one in seconds:
            self.beats(1, one)
        self.turns_to(before)


def test_until_enough_steps_were_seen_the_recipes_limit_holds() -> None:
    rank = Rank()
    rank.turns_to("training")
    rank.beats(9, 30)
    assert rank.pace.bound == Bound(LIMIT, "training")

    rank.beats(1, 30)

    assert rank.pace.bound == Bound(TIMES * 30, "training", 30)


def test_the_longest_step_counts_and_is_never_forgotten() -> None:
    rank = Rank()
    rank.turns_to("training")
    rank.beats(1, 90)
    rank.beats(200, 20)

    assert rank.pace.bound.seconds == TIMES * 90


def test_short_steps_leave_a_share_of_the_limit() -> None:
    rank = Rank()
    rank.turns_to("training")
    rank.beats(20, 0.5)

    assert rank.pace.bound.seconds == LIMIT / 15


@pytest.mark.parametrize(("limit", "expected"), [(60.0, LEAST_SECONDS), (15.0, 15.0)])
def test_a_bound_is_never_too_short_for_a_busy_machine_nor_longer_than_the_limit(limit: float, expected: float) -> None:
    rank = Rank(limit)
    rank.turns_to("training")
    rank.beats(20, 0.1)

    assert rank.pace.bound.seconds == expected


def test_loading_and_what_is_done_once_have_the_recipes_limit() -> None:
    rank = Rank()
    rank.beats(50, 0.5)
    assert rank.pace.bound == Bound(LIMIT)

    rank.turns_to("training")
    rank.beats(50, 0.5)
    rank.turns_to("")

    assert rank.pace.bound == Bound(LIMIT)


@pytest.mark.parametrize("what", ["saving", "evaluating"])
def test_slow_saves_and_evaluations_are_no_slow_steps(what: str) -> None:
    rank = Rank()
    rank.turns_to("training")
    rank.beats(20, 0.5)
    rank.visits(what, 500, 500)
    rank.beats(1, 0.5)
    assert rank.pace.bound.seconds == LIMIT / 15

    rank.turns_to(what)

    assert rank.pace.bound == Bound(LIMIT, what)


def test_the_third_save_is_measured_by_the_two_before_and_generously() -> None:
    rank = Rank()
    rank.turns_to("training")
    rank.visits("saving", 2, 3)
    rank.visits("saving", 2, 70)
    rank.turns_to("saving")

    assert rank.pace.bound == Bound(700, "saving", 70)


def test_bounds_are_read_as_they_were_written_and_never_beyond_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    Bound(120.0, "training", 1.5).write(path)
    assert Bound.read(path, LIMIT) == Bound(120.0, "training", 1.5)

    for content in ("", "{", "[]", '{"seconds": 1e9}', '{"seconds": -1}', '{"seconds": "x"}', '{"other": 1}'):
        path.write_text(content)
        assert Bound.read(path, LIMIT) == Bound(LIMIT)
    assert Bound.read(tmp_path / "missing", LIMIT) == Bound(LIMIT)
