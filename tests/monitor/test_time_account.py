"""Each second of a run is of one kind, whatever happened to it."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.monitor.time_account import TIME_KINDS, TimeAccount, account_for
from launcher.monitor.traces import AttemptTrace, kept_limits, read_steps, read_traces
from launcher.run.ledger import Attempt, append_event, read_attempts, read_json_lines
from launcher.run.pauses import Pause, read_pauses
from launcher.run.record import RunRecord, Submitted
from tests.support.run_histories import MIDNIGHT, History

RECORDED = Path(__file__).parent / "recorded"


def account_of(history: History, until: float = 0, is_over: bool = True) -> TimeAccount:
    return account_at(history, MIDNIGHT + until, is_over)


def account_at(history: History, until: float, is_over: bool = True) -> TimeAccount:
    run, attempts = history.run, read_attempts(history.run.ledger)
    traces = read_traces(run.metrics, kept_limits(attempts))
    return account_for(RunRecord.read(run.record), attempts, traces, read_pauses(run.pauses), until, is_over)


def seconds(account: TimeAccount) -> dict[str, float]:
    return {kind: round(value, 6) for kind, value in account.by_kind().items() if value}


@pytest.fixture
def begun(tmp_path: Path) -> History:
    return History.begin(tmp_path / "runs")


@pytest.fixture
def killed(begun: History) -> History:
    """Preempted in order after step 30, then killed after step 50 with step 40 saved, then finished."""
    begun.submit("7", at=0)
    begun.start(0, "7", at=60).begin_steps(0, at=70).train(0, 0, 30, at=70)
    begun.pause(0, 30, "saving", 130, 138).end(0, "preempted", "requeue", at=140, last_step=30)
    begun.start(1, "7", at=200).begin_steps(1, at=205).pause(1, 30, "evaluating", 205, 210).train(1, 30, 50, at=210)
    begun.end(1, "killed", "requeue", at=263, last_step=40)
    begun.start(2, "7", at=300).begin_steps(2, at=310).train(2, 40, 60, at=310).pause(2, 60, "exporting", 350, 357)
    return begun.end(2, "finished", "done", at=360, last_step=60)


def test_a_run_with_a_preemption_and_a_kill(killed: History) -> None:
    account = account_of(killed)

    assert seconds(account) == {
        "queued": 60 + 60 + 37,
        "starting": 10 + 5 + 10,
        "useful": 2 * (30 + 10 + 20),
        "redone": 2 * 10,
        "saving": 10 + 10,
        "evaluating": 5,
        "lost": 263 - 250,
    }
    assert account.seconds() == 360
    assert account.attempt_seconds == 80 + 63 + 60
    assert account.goodput == 120 / 203
    assert account.goodput_with_queue == 120 / 360


def test_old_runs_that_noted_no_pauses_are_divided_by_their_steps(begun: History) -> None:
    begun.submit("7", at=0).start(0, "7", at=60).train(0, 0, 30, at=70)
    begun.end(0, "finished", "done", at=140, last_step=30)

    assert seconds(account_of(begun)) == {"queued": 60, "starting": 10, "useful": 60, "saving": 10}


def test_time_after_a_stop_is_idle_until_somebody_submits_the_run_again(begun: History) -> None:
    begun.submit("7", at=0).start(0, "7", at=10).train(0, 0, 5, at=20)
    begun.end(0, "stopped", "stop", at=32, last_step=5).submit("8", at=1000)

    over = account_of(begun, until=1100)
    queued = account_of(begun, until=1100, is_over=False)

    assert seconds(over) == {"queued": 10, "starting": 10, "useful": 10, "saving": 2}
    assert seconds(queued) == {"queued": 10 + 100, "starting": 10, "useful": 10, "saving": 2, "idle": 968}
    assert queued.goodput_with_queue == 10 / (22 + 110)


def test_time_is_idle_in_which_a_job_that_was_to_follow_had_been_cancelled(begun: History) -> None:
    begun.submit("7", at=0).start(0, "7", at=10).train(0, 0, 5, at=20).end(
        0, "preempted", "requeue", at=30, last_step=5
    )
    append_event(begun.run.ledger, 0, action="stop", message="preempted; resumed by job 8")  # as job 8 does
    begun.submit("8", at=1000).start(1, "8", at=1010).begin_steps(1, at=1020)

    assert seconds(account_of(begun, until=1020, is_over=False)) == {
        "queued": 10 + 10, "starting": 10 + 10, "useful": 10, "idle": 970,
    }  # fmt: skip


def test_a_running_attempt_counts_up_to_now_and_one_without_a_step_is_starting(begun: History) -> None:
    begun.submit("7", at=0).start(0, "7", at=10)

    assert seconds(account_of(begun, until=50, is_over=False)) == {"queued": 10, "starting": 40}
    begun.train(0, 0, 10, at=40)
    assert seconds(account_of(begun, until=65, is_over=False)) == {"queued": 10, "starting": 30, "useful": 25}


def test_an_attempt_that_failed_before_its_first_step_is_lost(begun: History) -> None:
    begun.submit("7", at=0).start(0, "7", at=10).end(0, "error", "restart", at=25)
    begun.start(1, "7", at=25).begin_steps(1, at=40).end(1, "hang", "stop", at=100, last_step=0)

    assert seconds(account_of(begun)) == {"queued": 10, "lost": 15 + 60, "starting": 15}


@pytest.mark.parametrize("ahead", [300, -300])
def test_an_attempt_on_a_node_whose_clock_was_wrong_lasts_as_long_as_it_did(begun: History, ahead: float) -> None:
    begun.submit("7", at=0).start(0, "7", at=60).begin_steps(0, at=70).train(0, 0, 30, at=70)
    begun.end(0, "preempted", "requeue", at=132, last_step=30)
    begun.start(1, "7", at=150 + ahead).begin_steps(1, at=155 + ahead).train(1, 30, 40, at=155 + ahead)
    begun.pause(1, 40, "saving", 175 + ahead, 178 + ahead).end(1, "preempted", "requeue", at=178 + ahead, last_step=40)
    begun.start(2, "7", at=200).begin_steps(2, at=210).train(2, 40, 60, at=210)
    account = account_of(begun.end(2, "finished", "done", at=250, last_step=60))

    assert account.seconds() == 250
    assert seconds(account) == {
        "queued": 60 + 18 + 22,
        "starting": 10 + 5 + 10,
        "useful": 2 * (30 + 10 + 20),
        "saving": 2 + 3,
    }


def test_a_run_that_was_never_queued_has_no_time(begun: History) -> None:
    assert account_of(begun).spans == ()
    assert account_of(begun).goodput is None


@st.composite
def attempts_of_a_run(draw: st.DrawFn, number: int) -> tuple[Attempt, AttemptTrace | None]:
    """Clocks of nodes may differ, and any line may be missing."""
    times = st.floats(-5, 100)
    attempt = Attempt(number, started=draw(times), began=draw(st.none() | times), ended=draw(st.none() | times))
    attempt.reason = draw(st.sampled_from((None, "preempted", "killed", "hang", "finished", "stopped")))
    attempt.action = draw(st.sampled_from(("requeue", "restart", "stop")))
    if not draw(st.booleans()):
        return attempt, None
    first, kept, last = sorted(draw(st.lists(times, min_size=3, max_size=3)))
    rows = draw(st.integers(1, 9))
    return attempt, AttemptTrace(rows, 1, first, rows, last, draw(st.sampled_from((None, kept))))


@given(st.data())
def test_any_history_is_divided_without_gaps_and_sums_to_its_length(data: st.DataObject) -> None:
    found = [data.draw(attempts_of_a_run(number)) for number in range(data.draw(st.integers(0, 3)))]
    kinds = st.sampled_from(("saving", "evaluating", "exporting"))
    pauses = data.draw(
        st.lists(st.builds(Pause, st.integers(0, 3), st.just(1), kinds, st.floats(0, 90), st.floats(0, 9)))
    )
    record = RunRecord(*("a", "b", "cpt", "f", 0.0, "c", None, "/", "w", {}))
    record.submissions = [Submitted("7", "/", time) for time in sorted(data.draw(st.lists(st.floats(0, 90))))]
    traces = {attempt.number: trace for attempt, trace in found if trace}

    attempts = [attempt for attempt, _ in found]
    account = account_for(record, attempts, traces, pauses, data.draw(st.floats(0, 200)), data.draw(st.booleans()))

    spans = account.spans
    assert all(before.end == after.start for before, after in itertools.pairwise(spans))
    assert all(span.seconds > 0 for span in spans)
    assert sum(account.by_kind()[kind] for kind in TIME_KINDS) == pytest.approx(account.seconds())
    if spans:
        assert account.seconds() == pytest.approx(spans[-1].end - spans[0].start)


def test_rows_are_read_in_pieces_with_numbers_that_json_lacks_and_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"time": float(step), "step": step, "attempt": step // 3, "loss": float("nan")} for step in range(7)]
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
        + '\n[1]\n{"phase": "x"}\n{"step": "x", "time": 1}\n{"step": 7, "ti'
    )

    pieces = [(attempt, [row["step"] for row in piece]) for attempt, piece in read_steps(path)]

    assert pieces == [(0, [0, 1, 2]), (1, [3, 4, 5]), (2, [6])]
    assert len(read_json_lines(path)) == 9


def test_a_recorded_run_of_a_real_slurm_is_accounted_for_to_its_end() -> None:
    """Preempted, then killed, on a dev cluster of Slurm 22.05.8; end.json is Slurm's own EndTime, in whole seconds."""
    attempts, record = read_attempts(RECORDED / "attempts.jsonl"), RunRecord.read(RECORDED / "run.json")
    rows, pauses = read_json_lines(RECORDED / "metrics.jsonl"), read_pauses(RECORDED / "pauses.jsonl")
    traces = read_traces(RECORDED / "metrics.jsonl", kept_limits(attempts))

    account = account_for(record, attempts, traces, pauses, 0.0, is_over=True)

    whole = json.loads((RECORDED / "end.json").read_text())["end"] - record.submissions[0].time
    assert account.seconds() == pytest.approx(whole, abs=1)
    assert [attempt.reason for attempt in attempts] == ["preempted", "killed", "finished"]
    spent = account.by_kind()
    # The same, from each step's own duration: the time since the row or the pause before.
    last_of_step = {row["step"]: row["attempt"] for row in rows}
    steps = {"useful": 0.0, "redone": 0.0}
    for row in rows:
        moments = [one["time"] for one in rows if one["attempt"] == row["attempt"] and one["time"] < row["time"]]
        moments += [one.time for one in pauses if one.attempt == row["attempt"] and one.time < row["time"]]
        begin = max([*moments, attempts[row["attempt"]].began or 0.0])
        steps["useful" if last_of_step[row["step"]] == row["attempt"] else "redone"] += row["time"] - begin
    assert spent["useful"] == pytest.approx(steps["useful"], abs=0.1)
    assert spent["redone"] == pytest.approx(steps["redone"], abs=0.1)
    assert spent["evaluating"] == pytest.approx(
        sum(one.seconds for one in pauses if one.what == "evaluating"), abs=0.01
    )
    waits = [after.started - before.ended for before, after in itertools.pairwise(attempts) if before.ended]
    assert spent["queued"] == pytest.approx(sum(waits) + attempts[0].started - record.submissions[0].time)
    assert spent["idle"] == 0
