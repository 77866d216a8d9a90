"""What chaos draws, and how it reckons, from invented histories; tests/slurm/test_chaos.py breaks real runs."""

import json
from pathlib import Path

from launcher.devcluster.chaos import FAULTS, choose_faults, differing_steps, draw_strikes
from launcher.devcluster.chaos.report import Blow, costs_of
from launcher.run.ledger import Attempt
from tests.support.command_line import launcher


def row(step: int, time: float, attempt: int = 0) -> dict[str, float]:
    return {"step": step, "time": time, "attempt": attempt, "loss": 1 / step}


def test_a_seed_draws_the_same_faults_at_the_same_moments() -> None:
    assert draw_strikes(FAULTS, 12, seed=3) == draw_strikes(FAULTS, 12, seed=3)
    assert draw_strikes(FAULTS, 12, seed=3) != draw_strikes(FAULTS, 12, seed=4)


def test_no_fault_comes_again_before_all_others_have_come() -> None:
    drawn = [strike.fault for strike in draw_strikes(FAULTS, 2 * len(FAULTS), seed=0)]

    assert set(drawn[: len(FAULTS)]) == set(drawn[len(FAULTS) :]) == set(FAULTS)


def test_faults_come_in_the_order_of_their_moments_and_in_a_phase_in_which_they_can() -> None:
    strikes = draw_strikes(FAULTS, 40, seed=7)

    assert [strike.part for strike in strikes] == sorted(strike.part for strike in strikes)
    assert all(0 <= strike.part < 1 and strike.phase in strike.fault.phases for strike in strikes)
    assert {strike.phase for strike in strikes} == {"starting", "training", "saving"}


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_faults_are_chosen_by_name() -> None:
    assert [fault.name for fault in choose_faults(["hold", "preempt"])] == ["hold", "preempt"]
    assert choose_faults([]) == FAULTS


def test_a_fault_that_there_is_not_is_refused_with_those_there_are() -> None:
    _, said = launcher("devcluster", "chaos", "some-run", "--only", "flood", code=2)

    assert "--only: no fault `flood`; write some of preempt, " in said


def test_what_a_fault_cost_is_read_from_ledger_and_metrics() -> None:
    attempts = [
        Attempt(0, started=0.0, ended=20.0, reason="killed", action="requeue"),
        Attempt(1, started=26.0, ended=50.0, reason="preempted", action="requeue"),
        Attempt(2, started=60.0, ended=90.0, reason="finished", action="done"),
    ]
    rows = [row(step, 10.0 + step) for step in range(1, 8)]
    rows += [row(step, 30.0 + step, 1) for step in range(5, 13)]
    rows += [row(step, 60.0 + step, 2) for step in range(13, 16)]
    blows = [
        Blow("kill-rank", "training", "kill -9 of rank 0", 17.5, 0, 7),
        Blow("preempt", "saving", "preempted by job 3", 41.5, 1, 11),
        Blow("freeze-slurmctld", "training", "slurmctld stands still", 74.5, 2, 14),
    ]

    killed, preempted, silent = costs_of(blows, attempts, rows)

    assert (killed.exit_reason, killed.attempts, killed.redone, killed.recovery) == ("killed", 1, 3, "came back")
    assert killed.seconds == 38.0 - 17.5, "steps that are done again are not new"
    assert (preempted.exit_reason, preempted.attempts, preempted.redone) == ("preempted", 1, 0)
    assert preempted.seconds == 73.0 - 41.5, "the step that was under way is none after the fault"
    assert (silent.exit_reason, silent.attempts, silent.redone, silent.recovery) == ("", 0, 0, "went on")
    assert silent.seconds == 0.5


def test_a_fault_after_which_a_person_resumed_the_run_says_so() -> None:
    blow = Blow("kill-batch-process", "starting", "kill -9 of the batch process", 5.0, 0, 0, resumed=1)
    attempts = [Attempt(0, started=1.0, reason="killed"), Attempt(1, started=9.0)]

    [cost] = costs_of([blow], attempts, [])

    assert (cost.recovery, cost.attempts, cost.seconds) == ("was resumed", 1, None)


def test_no_fault_costs_nothing() -> None:
    assert costs_of([], [Attempt(0)], [row(1, 1.0)]) == []


def test_runs_differ_in_a_loss_in_one_that_was_computed_again_and_in_being_there(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    rows = [{"step": step, "loss": 1 / 3, "time": 0.0} for step in range(1, 6)]
    theirs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = [*rows[:4], {"step": 3, "loss": 1 / 3}, {"step": 2, "loss": 0.33333333333333337}]
    ours.write_text("".join(json.dumps(row) + "\n" for row in again))

    assert differing_steps(theirs, theirs) == []
    assert differing_steps(ours, theirs) == [2, 5]
