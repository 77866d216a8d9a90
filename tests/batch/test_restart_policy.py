"""What follows from the end of an attempt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch.allocation import COUNTED, STARTS_AGAIN
from jobs.batch.evidence import EndReason
from jobs.batch.restart_policy import (
    FAILURES,
    Policy,
    RequeuePolicy,
    RestartDecision,
    batch_exit_code,
    decide_restart,
)
from launcher.recipe import KINDS
from launcher.run.ledger import Action, Attempt, Reason, StopRequest

USER = StopRequest("user")
TIME_LIMIT = StopRequest("time_limit", 0)
PREEMPTED = EndReason("preempted", "scontrol", "PreemptTime 2026-01-01T00:00:00", exit_code=75)
ERROR = EndReason("error", "exit code 1", exit_code=1)


def first(end: EndReason, policy: Policy = Policy()) -> RestartDecision:  # noqa: B008 - frozen
    """Decide about the first attempt of a run, which reached step 10."""
    return decide_restart([Attempt(0, last_step=10)], end, policy)


def after(history: Sequence[tuple[Reason, int]], end: EndReason, policy: Policy = Policy()) -> RestartDecision:  # noqa: B008
    """Decide about an attempt that reached the last step of a history of (reason, step)."""
    attempts = [Attempt(n, reason=reason, last_step=step, action="requeue") for n, (reason, step) in enumerate(history)]
    return decide_restart(attempts, end, policy)


def test_the_message_tells_reason_detail_and_progress() -> None:
    full_disk = replace(ERROR, detail="rank 0 on n1: No space left on device: /c")
    missing = EndReason("bad_recipe", "exit code 78", "rank 0 on n1: data: is gone", exit_code=78)

    decision = decide_restart([Attempt(0)], full_disk, Policy())
    refused = decide_restart([Attempt(0)], missing, Policy())

    assert decision.message == "failed (rank 0 on n1: No space left on device: /c), no step is safe yet"
    assert decision.action == "requeue"
    assert refused.message.startswith("cannot work as it is (rank 0 on n1: data: is gone), no step is safe yet; ")
    assert refused.action == "stop"


def test_where_files_are_counted_progress_is_told_in_files() -> None:
    policy = Policy(counted="file")
    stuck = [Attempt(n, reason="error", last_step=1000 * bool(n), action="requeue") for n in range(5)]

    assert decide_restart([Attempt(0, last_step=1)], ERROR, policy).message == "failed, 1 file is done"
    assert decide_restart([Attempt(0)], PREEMPTED, policy).message.startswith(
        "preempted (PreemptTime 2026-01-01T00:00:00), no file is done yet"
    )
    assert decide_restart(stuck, ERROR, replace(policy, max_failures=9)).message == (
        "failed, 1,000 files are done; 3 attempts in a row finished no other file"
    )


def test_where_items_are_counted_an_evaluation_of_many_time_limits_goes_on() -> None:
    policy, saved = Policy(counted="item"), EndReason("time_limit", "STOP", exit_code=75, stop=TIME_LIMIT)

    assert after([("time_limit", 400 * n) for n in range(1, 9)], saved, policy).action == "requeue"
    decision = after([("time_limit", 400)] * 4, saved, policy)
    assert (decision.action, decision.message.rpartition("; ")[2]) == (
        "stop", "3 attempts in a row finished no other item",
    )  # fmt: skip
    assert "400 items are done" in decision.message


@pytest.mark.parametrize("kind", KINDS)
def test_progress_is_counted_in_what_the_kind_says(kind: str) -> None:
    assert f"{COUNTED.get(kind, 'step')}s" == KINDS[kind].progress


@pytest.mark.parametrize(
    ("reason", "stop", "action"),
    [
        ("finished", None, "done"),
        ("finished", USER, "done"),
        ("preempted", None, "requeue"),
        ("preempted", USER, "stop"),
        ("time_limit", TIME_LIMIT, "requeue"),
        ("stopped", None, "stop"),
        ("stopped", USER, "stop"),
        ("node_failure", TIME_LIMIT, "requeue"),
        ("killed", None, "requeue"),
        ("killed", USER, "stop"),
        ("out_of_memory", None, "requeue"),
        ("hang", None, "requeue"),
        ("hang", USER, "stop"),
        ("bad_recipe", None, "stop"),
        ("error", None, "requeue"),
        ("error", USER, "stop"),
    ],
)
def test_the_action_follows_from_the_reason_and_from_what_a_person_wants(
    reason: Reason, stop: StopRequest | None, action: Action
) -> None:
    assert first(EndReason(reason, "", exit_code=1, stop=stop)).action == action


@pytest.mark.parametrize(("policy", "action"), [("requeue", "requeue"), ("resubmit", "resubmit"), ("never", "stop")])
def test_the_cluster_profile_says_how_a_run_is_restarted(policy: RequeuePolicy, action: Action) -> None:
    assert first(PREEMPTED, Policy(policy)).action == action


def test_three_failures_at_the_same_step_stop_a_run() -> None:
    assert after([("error", 10), ("error", 10)], ERROR).action == "requeue"
    decision = after([("error", 10), ("error", 10), ("error", 10), ("error", 10)], ERROR, Policy(max_failures=9))

    assert decision.action == "stop"
    assert "3 attempts in a row got no further than step 10" in decision.message


def thrown_back(*steps: tuple[int, int], reason: Reason = "time_limit") -> list[Attempt]:
    """Attempts of (first step, last step), after one that reached step 10,000."""
    rows = [(0, 10_000), *steps]
    return [
        Attempt(n, first_step=first, last_step=last, reason=reason, action="requeue")
        for n, (first, last) in enumerate(rows)
    ]


def test_a_run_that_was_thrown_back_makes_progress_below_what_it_had_reached() -> None:
    saved = EndReason("time_limit", "STOP", exit_code=75, stop=TIME_LIMIT)
    attempts = thrown_back((0, 2000), (2000, 4000), (4000, 6000))

    for count in (2, 3, 4):
        decision = decide_restart(attempts[:count], saved, Policy())
        assert (decision.action, decision.message) == (
            "requeue", f"reached the time limit, step {(count - 1) * 2000} is safe",
        )  # fmt: skip


def test_a_run_that_was_thrown_back_and_is_stuck_there_stops_and_says_where() -> None:
    saved = EndReason("time_limit", "STOP", exit_code=75, stop=TIME_LIMIT)
    attempts = thrown_back((0, 2000), (2000, 2000), (2000, 2000), (2000, 2000))

    assert decide_restart(attempts[:4], saved, Policy()).action == "requeue"
    decision = decide_restart(attempts, saved, Policy())
    assert decision.action == "stop"
    assert "3 attempts in a row got no further than step 2000" in decision.message


def test_failures_before_a_throw_back_do_not_count_against_what_comes_after() -> None:
    attempts = [*thrown_back((10_000, 10_000), (10_000, 10_000), reason="error")[:3]]
    attempts.append(Attempt(3, first_step=0, last_step=500))

    assert decide_restart(attempts, ERROR, Policy(max_failures=9)).action == "requeue"


def test_a_run_that_loses_its_checkpoints_again_and_again_stops() -> None:
    saved = EndReason("time_limit", "STOP", exit_code=75, stop=TIME_LIMIT)

    assert decide_restart(thrown_back(*[(0, 10_000)] * 3), saved, Policy()).action == "requeue"
    assert decide_restart(thrown_back(*[(0, 10_000)] * 4), saved, Policy()).action == "stop"


def test_an_attempt_that_ends_before_it_resumed_throws_nothing_back() -> None:
    attempts = [*thrown_back((10_000, 12_000)), *(Attempt(n, reason="error", action="requeue") for n in (2, 3, 4))]

    decision = decide_restart(attempts, ERROR, Policy(max_failures=9))

    assert decision.message == "failed, step 12000 is safe; 3 attempts in a row got no further than step 12000"


def test_three_failures_from_the_start_stop_a_run() -> None:
    decision = decide_restart([Attempt(n, reason="error", action="requeue") for n in range(3)], ERROR, Policy())

    assert decision.action == "stop"
    assert "no step is safe yet" in decision.message


def test_failures_that_make_progress_stop_a_run_when_the_recipe_says() -> None:
    history: list[tuple[Reason, int]] = [("error", 10), ("node_failure", 20), ("killed", 30)]

    assert after(history, ERROR).action == "requeue"
    decision = after([*history, ("error", 40)], ERROR)
    assert decision.action == "stop"
    assert "4 failures are more than limits.max_failures (3) allows" in decision.message


def test_with_no_failure_allowed_the_first_one_stops() -> None:
    assert first(ERROR, Policy(max_failures=0)).action == "stop"


def test_ten_preemptions_without_progress_do_not_stop_a_run() -> None:
    decision = after([("preempted", 0)] * 10, replace(PREEMPTED, exit_code=143))

    assert decision.action == "requeue"
    assert "the ranks were ended before they had saved, this attempt made no progress" in decision.message


def test_a_preemption_between_failures_starts_the_count_without_progress_anew() -> None:
    assert after([("error", 10), ("error", 10), ("preempted", 10), ("error", 10)], ERROR).action == "requeue"


def test_three_whole_time_limits_without_progress_stop_a_run_and_slow_progress_does_not() -> None:
    saved = EndReason("time_limit", "STOP", exit_code=75, stop=StopRequest("time_limit", 3))

    decision = after([("time_limit", 10), ("time_limit", 10), ("time_limit", 10), ("time_limit", 10)], saved)
    assert decision.action == "stop"
    assert "3 attempts in a row got no further than step 10" in decision.message
    assert after([("time_limit", step) for step in range(10)], saved).action == "requeue"


def test_resuming_a_stopped_run_starts_all_budgets_anew() -> None:
    failed = [Attempt(n, reason="error", last_step=10, action="requeue") for n in range(3)]
    failed[-1].action = "stop"

    assert decide_restart([*failed, Attempt(3, last_step=10)], ERROR, Policy()).action == "requeue"


@pytest.mark.parametrize(
    ("reason", "exit_code", "code"),
    [("finished", 0, 0), ("stopped", 75, 75), ("finished", 1, 0), ("bad_recipe", 78, 78), ("preempted", 75, 75),
     ("error", 3, 3), ("killed", None, 1), ("preempted", 137, 137)],
)  # fmt: skip
def test_the_batch_process_ends_with_what_the_ranks_said_and_0_means_finished(
    reason: Reason, exit_code: int | None, code: int
) -> None:
    assert batch_exit_code(EndReason(reason, "", exit_code=exit_code)) == code


TOO_LARGE = Attempt(0, last_step=10, micro_batch=8)
DOES_NOT_FIT = EndReason("does_not_fit", "exit code 76", "rank 1 on n2: CUDA out of memory.", exit_code=76)


@pytest.mark.parametrize("policy", [Policy(), Policy("never"), Policy(max_failures=0)])
def test_a_micro_batch_that_does_not_fit_is_halved_at_once_and_costs_nothing(policy: Policy) -> None:
    decision = decide_restart([TOO_LARGE], DOES_NOT_FIT, policy)

    assert (decision.action, decision.max_micro_batch) == ("restart", 4)
    assert decision.message == (
        "did not fit into a GPU's memory (rank 1 on n2: CUDA out of memory.), step 10 is safe, "
        "continues with a micro batch of at most 4 and more accumulation steps"
    )


def test_halving_leaves_the_budget_to_failures() -> None:
    history = [replace(TOO_LARGE, number=n, reason="does_not_fit", action="restart") for n in range(3)]

    assert decide_restart([*history, Attempt(3, micro_batch=1)], ERROR, Policy(max_failures=1)).action == "requeue"


def test_a_job_that_is_ending_leaves_the_smaller_micro_batch_to_the_next() -> None:
    ending = replace(DOES_NOT_FIT, stop=TIME_LIMIT)

    decision = decide_restart([TOO_LARGE], ending, Policy())

    assert (decision.action, decision.max_micro_batch) == ("requeue", 4)
    assert decide_restart([TOO_LARGE], replace(ending, stop=USER), Policy()).action == "stop"
    assert decide_restart([TOO_LARGE], ending, Policy("never")).action == "stop"


ENDS = st.builds(
    EndReason,
    reason=st.sampled_from(get_args(Reason)),
    source=st.just("scontrol"),
    exit_code=st.none() | st.sampled_from([0, 1, 2, 75, 78, 134, 137, 139, 140, 143]),
    stop=st.none() | st.builds(StopRequest, st.sampled_from(["user", "time_limit"]), st.integers(0, 9)),
)
POLICIES = st.builds(Policy, st.sampled_from(get_args(RequeuePolicy)), st.integers(0, 5))
HISTORIES = st.lists(
    st.builds(
        Attempt,
        number=st.just(0),
        reason=st.sampled_from(get_args(Reason)),
        last_step=st.none() | st.integers(0, 50),
        action=st.sampled_from(["requeue", "resubmit", "stop"]),
    ),
    max_size=12,
)


def numbered(history: list[Attempt]) -> list[Attempt]:
    for number, attempt in enumerate(history):
        attempt.number = number
    return [*history, Attempt(len(history))]


@given(HISTORIES, ENDS, POLICIES)
def test_a_preemption_never_stops_a_run_that_may_be_restarted(
    history: list[Attempt], end: EndReason, policy: Policy
) -> None:
    decision = decide_restart(numbered(history), end, policy)

    if end.reason == "preempted" and policy.requeue != "never":
        wanted = end.stop is not None and end.stop.reason == "user"
        assert decision.action == ("stop" if wanted else policy.requeue)


@given(HISTORIES, ENDS, POLICIES)
def test_nothing_starts_again_after_its_end_or_against_a_wish(
    history: list[Attempt], end: EndReason, policy: Policy
) -> None:
    decision = decide_restart(numbered(history), end, policy)

    wanted = end.stop is not None and end.stop.reason == "user"
    is_free = end.reason == "does_not_fit" and end.stop is None
    if end.reason in ("bad_recipe", "stopped") or (policy.requeue == "never" and not is_free) or wanted:
        assert decision.action in ("stop", "done")
    assert (decision.action == "done") == (end.reason == "finished")


@given(HISTORIES, ENDS, POLICIES)
def test_failures_beyond_the_limit_always_stop(history: list[Attempt], end: EndReason, policy: Policy) -> None:
    decision = decide_restart(numbered(history), end, policy)
    recent = history
    for position, attempt in enumerate(history):
        if attempt.action == "stop":
            recent = history[position + 1 :]

    if end.reason in FAILURES and sum(one.reason in FAILURES for one in recent) >= policy.max_failures:
        assert decision.action == "stop"


def test_where_an_attempt_keeps_nothing_no_progress_is_told() -> None:
    policy = Policy(starts_again=True)
    refused = EndReason("bad_recipe", "exit code 78", "rank 0 on n1: format: differs by 1", exit_code=78)
    failed = [Attempt(n, reason="error", action="requeue") for n in range(3)]

    assert decide_restart([Attempt(0)], ERROR, policy).message == "failed"
    assert decide_restart([Attempt(0)], refused, policy).message == (
        "cannot work as it is (rank 0 on n1: format: differs by 1); a restart would fail in the same way: see the logs"
    )
    assert decide_restart([Attempt(0)], PREEMPTED, policy).message == "preempted (PreemptTime 2026-01-01T00:00:00)"
    assert decide_restart(failed, ERROR, policy).message == "failed; 3 attempts in a row did not come to the end"


def test_kinds_that_keep_nothing_count_in_steps_and_do_not_train() -> None:
    assert {name for name, kind in KINDS.items() if kind.progress == "steps" and not kind.trains} == STARTS_AGAIN
