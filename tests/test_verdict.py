"""What follows from the end of an attempt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.runtime.verdict import (
    FAILURES,
    Cause,
    Ending,
    Policy,
    RequeuePolicy,
    Verdict,
    batch_exit_code,
    judge,
)
from launcher.ledger import Action, Attempt, Reason, StopRequest

USER = StopRequest("user")
TIME_LIMIT = StopRequest("time_limit", 0)
PREEMPTED = Cause("preempted", "scontrol", "PreemptTime 2026-01-01T00:00:00")
CANCELLED = Cause("stopped", "Slurm's log")
LOST_NODE = Cause("node_failure", "srun", "Node failure on gpu02")
OUT_OF_MEMORY = Cause("out_of_memory", "scontrol")
HANG = Cause("hang", "watchdog", "no sign of life for 30min")
OUT_OF_TIME = Cause("killed", "Slurm's log", "time limit")


def first(ending: Ending, policy: Policy = Policy()) -> Verdict:  # noqa: B008 - frozen
    """Judge the first attempt of a run, which reached step 10."""
    return judge([Attempt(0, last_step=10)], ending, policy)


def after(history: Sequence[tuple[Reason, int]], ending: Ending, policy: Policy = Policy()) -> Verdict:  # noqa: B008
    """Judge an attempt that reached the last step of a history of (reason, step); the reasons before it are given."""
    attempts = [Attempt(n, reason=reason, last_step=step, action="requeue") for n, (reason, step) in enumerate(history)]
    return judge(attempts, ending, policy)


def test_what_a_task_said_of_a_recipe_that_cannot_work_is_told() -> None:
    said = judge(
        [Attempt(0, fault="rank 0 on n1: data: is gone")], Ending(78, detail="Exited with 78"), Policy()
    ).message

    assert said.startswith("cannot work as it is (rank 0 on n1: data: is gone), no step is safe yet; ")


def test_what_a_task_said_of_a_full_disk_is_told_and_the_run_comes_back() -> None:
    verdict = judge(
        [Attempt(0, fault="rank 0 on n1: No space left on device: /c")], Ending(1, detail="Exited"), Policy()
    )

    assert verdict.message == "failed (rank 0 on n1: No space left on device: /c), no step is safe yet"
    assert verdict.action == "requeue"


def test_where_files_are_counted_progress_is_told_in_files() -> None:
    policy = Policy(counts_files=True)
    stuck = [Attempt(n, reason="error", last_step=1000 * bool(n), action="requeue") for n in range(5)]

    assert judge([Attempt(0, last_step=1)], Ending(1), policy).message == "failed, 1 file is done"
    assert judge([Attempt(0)], Ending(75, cause=PREEMPTED), policy).message.startswith(
        "preempted (PreemptTime 2026-01-01T00:00:00), no file is done yet"
    )
    assert judge(stuck, Ending(1), replace(policy, max_failures=9)).message == (
        "failed, 1,000 files are done; 3 attempts in a row finished no other file"
    )


@pytest.mark.parametrize(
    ("ending", "reason", "source", "action"),
    [
        (Ending(0), "finished", "exit code 0", "done"),
        (Ending(0, finished=True), "finished", "ledger", "done"),
        (Ending(1, finished=True), "finished", "ledger", "done"),
        (Ending(137, finished=True, cause=PREEMPTED), "finished", "ledger", "done"),
        (Ending(0, stop=USER), "finished", "exit code 0", "done"),
        (Ending(75), "preempted", "exit code 75", "requeue"),
        (Ending(75, cause=PREEMPTED), "preempted", "scontrol", "requeue"),
        (Ending(75, stop=TIME_LIMIT), "time_limit", "STOP", "requeue"),
        (Ending(75, stop=TIME_LIMIT, cause=OUT_OF_TIME), "time_limit", "STOP", "requeue"),
        (Ending(75, stop=TIME_LIMIT, cause=PREEMPTED), "preempted", "scontrol", "requeue"),
        (Ending(75, stop=TIME_LIMIT, cause=CANCELLED), "stopped", "Slurm's log", "stop"),
        (Ending(75, stop=TIME_LIMIT, cause=LOST_NODE), "node_failure", "srun", "requeue"),
        (Ending(75, stop=USER), "stopped", "STOP", "stop"),
        (Ending(75, stop=USER, cause=PREEMPTED), "stopped", "STOP", "stop"),
        (Ending(78), "bad_recipe", "exit code 78", "stop"),
        (Ending(78, cause=PREEMPTED), "bad_recipe", "exit code 78", "stop"),
        (Ending(1), "error", "exit code 1", "requeue"),
        (Ending(1, stop=TIME_LIMIT), "error", "exit code 1", "requeue"),
        (Ending(1, stop=USER), "error", "exit code 1", "stop"),
        (Ending(1, cause=LOST_NODE), "node_failure", "srun", "requeue"),
        (Ending(1, cause=OUT_OF_MEMORY), "out_of_memory", "scontrol", "requeue"),
        (Ending(1, cause=HANG), "hang", "watchdog", "requeue"),
        (Ending(137, cause=HANG), "hang", "watchdog", "requeue"),
        (Ending(137, stop=USER, cause=HANG), "hang", "watchdog", "stop"),
        (Ending(75, stop=TIME_LIMIT, cause=HANG), "time_limit", "STOP", "requeue"),
        (Ending(137, finished=True, cause=HANG), "finished", "ledger", "done"),
        (Ending(137), "killed", "exit code 137", "requeue"),
        (Ending(137, cause=PREEMPTED), "preempted", "scontrol", "requeue"),
        (Ending(143, cause=CANCELLED), "stopped", "Slurm's log", "stop"),
        (Ending(140, stop=TIME_LIMIT), "time_limit", "STOP", "requeue"),
        (Ending(139, stop=TIME_LIMIT), "killed", "exit code 139", "requeue"),
        (Ending(None), "killed", "no word of its end", "requeue"),
        (Ending(None, cause=PREEMPTED), "preempted", "scontrol", "requeue"),
        (Ending(None, cause=OUT_OF_TIME), "killed", "Slurm's log", "requeue"),
    ],
)
def test_the_reason_follows_from_who_spoke(ending: Ending, reason: Reason, source: str, action: Action) -> None:
    verdict = first(ending)

    assert (verdict.reason, verdict.source, verdict.action) == (reason, source, action)


@pytest.mark.parametrize(("policy", "action"), [("requeue", "requeue"), ("resubmit", "resubmit"), ("never", "stop")])
def test_the_cluster_profile_says_how_a_run_comes_back(policy: RequeuePolicy, action: Action) -> None:
    assert first(Ending(75, cause=PREEMPTED), Policy(policy)).action == action


def test_three_failures_at_the_same_step_stop_a_run() -> None:
    assert after([("error", 10), ("error", 10)], Ending(1)).action == "requeue"
    verdict = after([("error", 10), ("error", 10), ("error", 10), ("error", 10)], Ending(1), Policy(max_failures=9))

    assert verdict.action == "stop"
    assert "3 attempts in a row got no further than step 10" in verdict.message


def test_three_failures_from_the_start_stop_a_run() -> None:
    verdict = judge([Attempt(n, reason="error", action="requeue") for n in range(3)], Ending(1), Policy())

    assert verdict.action == "stop"
    assert "no step is safe yet" in verdict.message


def test_failures_that_make_progress_stop_a_run_when_the_recipe_says() -> None:
    history: list[tuple[Reason, int]] = [("error", 10), ("node_failure", 20), ("killed", 30)]

    assert after(history, Ending(1)).action == "requeue"
    verdict = after([*history, ("error", 40)], Ending(1))
    assert verdict.action == "stop"
    assert "4 failures are more than limits.max_failures (3) allows" in verdict.message


def test_with_no_failure_allowed_the_first_one_stops() -> None:
    assert first(Ending(1), Policy(max_failures=0)).action == "stop"


def test_ten_preemptions_without_progress_do_not_stop_a_run() -> None:
    verdict = after([("preempted", 0)] * 10, Ending(143, cause=PREEMPTED))

    assert verdict.action == "requeue"
    assert "the tasks were ended before they had saved, this attempt made no progress" in verdict.message


def test_a_preemption_between_failures_starts_the_count_without_progress_anew() -> None:
    assert after([("error", 10), ("error", 10), ("preempted", 10), ("error", 10)], Ending(1)).action == "requeue"


def test_three_whole_time_limits_without_progress_stop_a_run_and_slow_progress_does_not() -> None:
    saved = Ending(75, stop=StopRequest("time_limit", 3))

    verdict = after([("time_limit", 10), ("time_limit", 10), ("time_limit", 10), ("time_limit", 10)], saved)
    assert verdict.action == "stop"
    assert "3 attempts in a row got no further than step 10" in verdict.message
    assert after([("time_limit", step) for step in range(10)], saved).action == "requeue"


def test_resuming_a_stopped_run_starts_all_budgets_anew() -> None:
    failed = [Attempt(n, reason="error", last_step=10, action="requeue") for n in range(3)]
    failed[-1].action = "stop"

    assert judge([*failed, Attempt(3, last_step=10)], Ending(1), Policy()).action == "requeue"


@pytest.mark.parametrize(
    ("ending", "code"),
    [(Ending(0), 0), (Ending(75, stop=USER), 75), (Ending(1, finished=True), 0), (Ending(78), 78), (Ending(75), 75),
     (Ending(3), 3), (Ending(None), 1), (Ending(137, cause=PREEMPTED, stop=USER), 137), (Ending(1, stop=USER), 1)],
)  # fmt: skip
def test_the_batch_process_ends_with_what_the_tasks_said_and_0_means_finished(ending: Ending, code: int) -> None:
    assert batch_exit_code(first(ending), ending) == code


def too_large(micro_batch: int, number: int = 0, limit: int | None = None) -> Attempt:
    return Attempt(number, last_step=10, micro_batch=micro_batch, max_micro_batch=limit, reason="does_not_fit")


@pytest.mark.parametrize("policy", [Policy(), Policy("never"), Policy(max_failures=0)])
def test_a_micro_batch_that_does_not_fit_is_halved_at_once_and_costs_nothing(policy: Policy) -> None:
    attempt = replace(too_large(8), fault="rank 1 on n2: a micro batch of 8 does not fit: CUDA out of memory.")

    verdict = judge([attempt], Ending(76, detail="rank 0 on n1: Exited with exit code 1"), policy)

    assert (verdict.reason, verdict.action, verdict.max_micro_batch) == ("does_not_fit", "restart", 4)
    assert verdict.message == (
        "did not fit into a GPU's memory (rank 1 on n2: a micro batch of 8 does not fit: CUDA out of memory.), "
        "step 10 is safe, at most 4 from now on, and more accumulation instead"
    )


def test_halving_comes_to_an_end_and_leaves_the_budget_for_failures_alone() -> None:
    history = [too_large(8, 0, limit=4), too_large(4, 1, limit=2), too_large(2, 2)]

    assert judge(history, Ending(76), Policy()).max_micro_batch == 1
    crashed = judge([*history[:2], Attempt(2, micro_batch=2)], Ending(1), Policy())
    assert (crashed.reason, crashed.action) == ("error", "requeue")


def test_a_job_that_is_ending_leaves_the_smaller_micro_batch_to_the_next() -> None:
    verdict = judge([too_large(8)], Ending(76, stop=TIME_LIMIT), Policy())

    assert (verdict.action, verdict.max_micro_batch) == ("requeue", 4)
    assert judge([too_large(8)], Ending(76, stop=USER), Policy()).action == "stop"
    assert judge([too_large(8)], Ending(76, stop=TIME_LIMIT), Policy("never")).action == "stop"


@pytest.mark.parametrize(
    ("attempts", "ending", "reason"),
    [
        ([too_large(8)], Ending(76, cause=OUT_OF_MEMORY), "out_of_memory"),  # the kernel killed a task for its RAM
        ([too_large(8)], Ending(76, cause=PREEMPTED), "preempted"),
        ([too_large(8)], Ending(137), "killed"),
        ([too_large(1)], Ending(76), "error"),
        ([Attempt(0)], Ending(76), "error"),  # it never told its micro batch
        ([too_large(8, 0, limit=4), too_large(8, 1)], Ending(76), "error"),  # the limit was not heeded
    ],
)
def test_nothing_else_is_halved(attempts: list[Attempt], ending: Ending, reason: Reason) -> None:
    verdict = judge(attempts, ending, Policy())

    assert (verdict.reason, verdict.max_micro_batch) == (reason, None)


REASONS = st.sampled_from(get_args(Reason))
STOPS = st.none() | st.builds(StopRequest, st.sampled_from(["user", "time_limit"]), st.integers(0, 9))
CAUSES = st.none() | st.builds(
    Cause, st.sampled_from(["preempted", "stopped", "node_failure", "killed", "out_of_memory"]), st.just("scontrol")
)
ENDINGS = st.builds(
    Ending,
    exit_code=st.none() | st.sampled_from([0, 1, 2, 75, 78, 134, 137, 139, 140, 143]),
    finished=st.booleans(),
    stop=STOPS,
    cause=CAUSES,
)
POLICIES = st.builds(Policy, st.sampled_from(get_args(RequeuePolicy)), st.integers(0, 5))
HISTORIES = st.lists(
    st.builds(
        Attempt,
        number=st.just(0),
        reason=REASONS,
        last_step=st.none() | st.integers(0, 50),
        action=st.sampled_from(["requeue", "resubmit", "stop"]),
    ),
    max_size=12,
)


def numbered(history: list[Attempt]) -> list[Attempt]:
    for number, attempt in enumerate([*history, Attempt(len(history))]):
        attempt.number = number
    return [*history, Attempt(len(history))]


@given(HISTORIES, ENDINGS, POLICIES)
def test_a_preemption_never_stops_a_run_that_may_come_back(
    history: list[Attempt], ending: Ending, policy: Policy
) -> None:
    verdict = judge(numbered(history), ending, policy)

    if verdict.reason == "preempted" and policy.requeue != "never":
        wanted = ending.stop is not None and ending.stop.reason == "user"
        assert verdict.action == ("stop" if wanted else policy.requeue)


@given(HISTORIES, ENDINGS, POLICIES)
def test_nothing_starts_again_after_its_end_or_against_a_wish(
    history: list[Attempt], ending: Ending, policy: Policy
) -> None:
    verdict = judge(numbered(history), ending, policy)

    wanted = ending.stop is not None and ending.stop.reason == "user"
    if verdict.reason in ("bad_recipe", "stopped") or policy.requeue == "never" or wanted:
        assert verdict.action in ("stop", "done")
    assert (verdict.action == "done") == (verdict.reason == "finished")


@given(HISTORIES, ENDINGS, POLICIES)
def test_failures_beyond_the_limit_always_stop(history: list[Attempt], ending: Ending, policy: Policy) -> None:
    verdict = judge(numbered(history), ending, policy)
    recent = history
    for position, attempt in enumerate(history):
        if attempt.action == "stop":
            recent = history[position + 1 :]

    if verdict.reason in FAILURES and sum(one.reason in FAILURES for one in recent) >= policy.max_failures:
        assert verdict.action == "stop"
