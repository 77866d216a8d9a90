"""Who gets which trial, and which values come next."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import RunError
from launcher.monitor.trials import PastTrial, TrialState, read_past
from launcher.operate.search.ask import ask
from launcher.operate.search.pruning import find_hopeless_step, rung_values
from launcher.operate.search.sampler import suggest
from launcher.recipe.sections.search import HalvingPruner, Search
from launcher.run.ledger import StopRequest, append_event, read_attempts
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.trials import Owner, Trial, claim, publish_once, read_trials, take_up
from launcher.slurm.parse import Job
from launcher.slurm.query import QueryResult
from launcher.submit.searches import forget_failures
from tests.support.searches import Element, make_search, section_of, start
from tests.support.submissions import MakeCluster, MakeRecipe
from tests.support.waiting import PATIENCE

Make = Callable[..., Element]
METRIC = "validation_loss"


@pytest.fixture
def make(tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe) -> Make:
    def call(**section: Any) -> Element:
        return Element(*make_search(tmp_path, make_cluster(), make_cpt(), **section))

    return call


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The states of jobs; without any Slurm does not answer."""
    states: dict[str, str] = {}

    def find(_: object, jobs: list[str]) -> QueryResult:
        found = {job: Job(job, states[job], "squeue") for job in jobs if job in states}
        return QueryResult(found, frozenset({"squeue"} if states else ()))

    monkeypatch.setattr("launcher.operate.search.owners.find_jobs", find)
    return states


def leave_alone(*paths: Path) -> None:
    """Let files be a day old."""
    yesterday = time.time() - 86400
    for path in paths:
        os.utime(path, (yesterday, yesterday), follow_symlinks=False)


def search(**section: Any) -> Search:
    return Search.model_validate_json(json.dumps(section_of(**section)))


def past(number: int, state: TrialState, value: float | None, **reports: float) -> PastTrial:
    owner = Owner("1")
    trial = Trial(number, "", {"optim.lr": 10.0 ** -(1 + number % 5), "optim.weight_decay": 0.5}, "", owner)
    return PastTrial(trial, 0, owner, state, value, {int(key[1:]): one for key, one in reports.items()}, 0)


def test_the_next_element_takes_up_what_a_dead_one_has_left(make: Make) -> None:
    element = make(trials=3)
    dead = start(element, dies_at=600)
    dead.join(PATIENCE)
    assert dead.exitcode == -9
    [*_, left] = read_past(element.search, METRIC)
    assert left.state == "open"

    trial = element.ask().trial

    assert trial is not None
    assert (trial.run, trial.values) == (left.trial.run, left.trial.values)
    assert RunRecord.read(element.run_of(trial).record).submissions[-1].job_id == element.job


def test_what_another_element_works_on_is_left_alone(make: Make, queue: dict[str, str]) -> None:
    element = make(trials=2)
    queue["12_0"] = "RUNNING"
    first = ask(element.search, Owner("12_0"), element.submission).trial
    second = ask(element.search, Owner("12_1"), element.submission).trial

    assert first and second and (first.number, second.number) == (0, 1)
    assert ask(element.search, Owner("12_2"), element.submission).trial == second, "squeue knows nothing of 12_1"
    queue["12_2"] = "COMPLETING"
    assert ask(element.search, Owner("12_3"), element.submission).is_done


def test_a_job_that_waits_in_the_queue_again_works_on_nothing(make: Make, queue: dict[str, str]) -> None:
    element = make(trials=1)
    first = ask(element.search, Owner("12_0"), element.submission).trial
    queue["12_0"] = "PENDING"

    assert ask(element.search, Owner("12_1"), element.submission).trial == first
    queue["12_1"] = "RUNNING"
    late = ask(element.search, Owner("12_0", restarts=1), element.submission)
    assert (late.trial, late.is_done) == (None, True)


def test_a_process_on_another_machine_keeps_its_trial_as_long_as_it_writes(make: Make) -> None:
    element = make(trials=1)
    trial = ask(element.search, Owner("local-7", host="far", started="1"), element.submission).trial
    assert trial is not None

    assert element.ask().trial is None

    run = element.run_of(trial)
    leave_alone(*run.root.iterdir(), run.root, element.search.trial(0))
    assert element.ask().trial == trial


def test_what_another_machine_has_just_claimed_is_left_alone_though_it_has_no_directory_yet(make: Make) -> None:
    element, far = make(trials=1), Owner("local-7", host="far", started="1")
    assert claim(
        element.search, Trial(0, "rates-20260921-120000-abc123", {"optim.lr": 1e-3, "optim.weight_decay": 0.1}, "", far)
    )

    assert element.ask().trial is None

    leave_alone(element.search.trial(0))
    assert element.ask().trial is not None


def test_so_is_what_it_has_just_taken_up_again(make: Make) -> None:
    element, far = make(trials=1), Owner("local-7", host="far", started="1")
    trial = ask(element.search, Owner("local-9", host="gone", started="1"), element.submission).trial
    assert trial is not None
    run = element.run_of(trial)
    append_event(run.ledger, 0, job_id="local-9", started=1.0, nodes=["gone"])
    leave_alone(*run.root.iterdir(), run.root, element.search.trial(0))
    assert take_up(element.search, trial, 0, far)

    assert element.ask().trial is None

    leave_alone(element.search.owner(0, 1))
    assert element.ask().trial == trial


def test_slurm_that_does_not_answer_takes_no_trial_from_anybody(make: Make, queue: dict[str, str]) -> None:
    assert not queue
    element = make(trials=1)
    ask(element.search, Owner("12_0"), element.submission)

    assert ask(element.search, Owner("12_1"), element.submission).trial is None


def test_three_failures_and_nothing_else_end_a_search_until_it_is_resumed(make: Make) -> None:
    element = make(trials=9)
    for _ in range(3):
        trial = element.ask().trial
        assert trial is not None
        fail(element.run_of(trial), element.job)

    answer = element.ask()
    assert answer.trial is None and not answer.is_done
    assert answer.why.startswith("3 trials failed and none has finished")

    assert forget_failures(element.search) == 3
    again = element.ask().trial
    assert again is not None and again.number == 0
    assert [one.state for one in read_past(element.search, METRIC)] == ["open"] * 3
    fail(element.run_of(again), element.job)
    assert [one.state for one in read_past(element.search, METRIC)] == ["failed", "open", "open"]


def test_a_trial_that_a_person_stopped_stays_so_and_the_search_goes_on(make: Make) -> None:
    element = make(trials=2)
    first = element.ask().trial
    assert first is not None
    StopRequest().write(element.run_of(first).stop_request)

    second = element.ask().trial

    assert second is not None and second.number == 1
    assert read_past(element.search, METRIC)[0].state == "stopped"


def test_a_trial_whose_batch_process_died_while_it_was_pruned_is_closed(make: Make) -> None:
    element = make(trials=1)
    trial = element.ask().trial
    assert trial is not None
    run = element.run_of(trial)
    append_event(run.ledger, 0, job_id=element.job, started=1.0)
    StopRequest("pruned", 0).write(run.stop_request)

    assert element.ask().is_done
    assert [(one.reason, one.action) for one in read_attempts(run.ledger)] == [("pruned", "stop")]


def test_values_that_do_not_go_together_are_not_tried(make: Make) -> None:
    with pytest.raises(RunError, match="20 times values were chosen that do not go together"):
        make(trials=2, space={"batch.micro_batch": [3, 5]}).ask()

    trial = make(trials=2, space={"batch.micro_batch": [5, 4, 3]}).ask().trial
    assert trial is not None and trial.values["batch.micro_batch"] == 4, "16 sequences are no multiple of 5 or 3"


def test_what_the_best_trial_made_gets_the_name_when_all_are_over(
    tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe
) -> None:
    """The bowl is lowest at 1e-3; the trial at 1e-2 is the best of those that have finished at first."""
    rates = [1e-1, 1e-2, 1e-3]
    space = {"optim.lr": rates, "optim.weight_decay": [0.3]}
    searched: dict[str, Any] = {"method": "grid", "space": space}
    recipe, link = make_cpt(output="tuned"), tmp_path / "models" / "tuned"

    def work(trials: int) -> list[RunDir]:
        element = Element(*make_search(tmp_path, make_cluster(), recipe, trials=trials, **searched))
        while trial := element.ask().trial:
            assert not link.exists() or trials == 3, "before all are over nothing has the name"
            (element.run_of(trial).outputs / "model").mkdir(parents=True)
            element.carry_out(trial)
        return [element.run_of(trial) for trial in read_trials(element.search)]

    runs = work(2)
    assert link.resolve() == (runs[1].outputs / "model").resolve()
    assert json.loads(runs[1].recipe.read_bytes())["output"] is None
    assert RunRecord.read(runs[1].record).name == "pretrain-1"

    runs = work(3)
    assert link.resolve() == (runs[2].outputs / "model").resolve()


def test_a_name_that_something_else_has_is_left_alone(
    tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe
) -> None:
    element = Element(*make_search(tmp_path, make_cluster(), make_cpt(output="tuned"), trials=1))
    (tmp_path / "models" / "tuned").mkdir()
    trial = element.ask().trial
    assert trial is not None
    (element.run_of(trial).outputs / "model").mkdir(parents=True)
    element.carry_out(trial)

    assert "exists already, and is not from this search" in element.ask().why
    assert not (tmp_path / "models" / "tuned").is_symlink()


def test_a_file_is_published_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.json"

    assert publish_once(path, {"a": 1})
    assert not publish_once(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [*tmp_path.iterdir()] == [path]


def test_only_one_takes_up_a_trial(make: Make) -> None:
    element = make(trials=1)
    [trial] = [element.ask().trial]
    assert trial is not None

    assert take_up(element.search, trial, 0, Owner("a"))
    assert not take_up(element.search, trial, 0, Owner("b"))
    assert read_past(element.search, METRIC)[0].owner == Owner("a")
    assert len(read_trials(element.search)) == 1


def test_random_values_depend_on_the_number_only(make: Make) -> None:
    one, other = search(seed=1), search(seed=1, trials=100, parallel=3)

    assert suggest(one, "minimize", 5, ()) == suggest(other, "minimize", 5, [past(0, "finished", 1.0)])
    assert suggest(one, "minimize", 5, ()) != suggest(one, "minimize", 6, ())


def test_a_grid_gives_each_combination_once() -> None:
    grid = search(method="grid", trials=4, space={"a.b": [1, 2], "c": ["x", "y"]})

    found = [suggest(grid, "minimize", number, ()) for number in range(4)]
    assert [tuple(one.values()) for one in found] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_tpe_knows_what_is_under_way_and_what_came_of_the_others() -> None:
    tpe = search(method="tpe", trials=99)
    good = [past(number, "finished", abs(number % 5 - 2.0)) for number in range(20)]
    drawn = [suggest(tpe, "minimize", 20 + number, good)["optim.lr"] for number in range(20)]
    other = [suggest(tpe, "maximize", 20 + number, good)["optim.lr"] for number in range(20)]

    distance = [sum(abs(math.log10(rate) + 3) for rate in rates) for rates in (drawn, other)]
    assert distance[0] < distance[1], "rates near 1e-3 were the lowest"
    every = [past(number, state, 1.0) for number, state in enumerate(("open", "pruned", "failed", "stopped"))]
    assert suggest(tpe, "minimize", 4, every).keys() == tpe.space.keys()


def test_choices_may_be_anything_that_yaml_can_say() -> None:
    space = {"optim.betas": [[0.9, 0.95], [0.9, 0.999]], "adapter": [None, {"method": "lora"}]}
    found = suggest(search(method="tpe", space=space), "minimize", 0, ())

    assert found["optim.betas"] in ([0.9, 0.95], [0.9, 0.999]) or found["optim.betas"] in space["optim.betas"]
    assert found["adapter"] in space["adapter"]


def halving(reports: list[dict[int, float]], judged: int, factor: int, direction: str = "minimize") -> int | None:
    """At which step asynchronous halving ends a trial, by its definition (Li et al. 2018, algorithm 2)."""
    sign = 1 if direction == "minimize" else -1
    for step in sorted(reports[judged]):
        rung = 0
        while step >= factor**rung:
            reached = [min(one for one in its if one >= factor**rung) for its in reports if max(its) >= factor**rung]
            first = min(one for one in reports[judged] if one >= factor**rung)
            if first == step:
                values = sorted(
                    sign * its[min(one for one in its if one >= factor**rung)]
                    for its in reports
                    if max(its) >= factor**rung
                )
                best = max(1, len(reached) // factor)
                if sign * reports[judged][step] > values[best - 1]:
                    return step
            rung += 1
    return None


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("factor", [2, 3])
def test_pruning_is_successive_halving(direction: str, factor: int) -> None:
    """All reports but those of the last trial are there; it is judged after each of its own."""
    curves = [{step: (number * 7 % 11) + 1 / step for step in range(1, 10)} for number in range(11)]
    wanted = search(method="tpe", trials=20, pruner={"min_step": 1, "factor": factor})
    for judged in range(11):
        trials = [
            past(
                number,
                "open" if number == judged else "finished",
                1.0,
                **{f"s{step}": one for step, one in its.items()},
            )
            for number, its in enumerate(curves)
        ]

        found = find_hopeless_step(wanted, direction, trials, judged, -1)  # type: ignore[arg-type]

        assert found == halving(curves, judged, factor, direction)


def test_an_undefined_value_is_the_end_of_a_trial() -> None:
    wanted = search(method="tpe", trials=20, pruner={"min_step": 1, "factor": 2})
    first, diverged = past(0, "finished", 9.0, s1=9.0), past(1, "open", None, s1=math.nan)

    assert find_hopeless_step(wanted, "minimize", [first, diverged], 1, -1) == 1
    assert rung_values(HalvingPruner(min_step=1, factor=2), {1: 2.0, 2: math.nan, 4: 1.0}) == {"completed_rung_0": 2.0}
    assert suggest(wanted, "minimize", 2, [first, past(1, "finished", None, s1=math.nan)]).keys() == wanted.space.keys()


def test_what_a_newer_launcher_has_added_is_left_out(make: Make) -> None:
    element = make(trials=2)
    for path, inner in ((element.search.record, "section"), (element.search.trial(0), "owner")):
        element.ask()
        found = json.loads(path.read_bytes())
        path.write_text(json.dumps({**found, "new": 1, inner: {**found[inner], "new": 1}}))

    trial = element.ask().trial
    assert trial is not None and trial.number == 0


def test_values_at_decisions_are_the_first_from_there_on() -> None:
    pruner = HalvingPruner(min_step=4, factor=2)
    assert rung_values(pruner, {0: 9.0, 3: 8.0, 5: 7.0, 9: 6.0}) == {"completed_rung_0": 7.0, "completed_rung_1": 6.0}


def fail(run: RunDir, job: str) -> None:
    number = len(read_attempts(run.ledger))
    append_event(run.ledger, number, job_id=job, started=1.0)
    append_event(run.ledger, number, ended=2.0, reason="error", action="stop")
