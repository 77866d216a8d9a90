"""The suggested interval is the one that Daly's model of a run takes least time with."""

import math

import pytest

from launcher.monitor.checkpoint_interval import advise, daly_interval
from launcher.monitor.consumption import consumption_of
from launcher.monitor.time_account import TimeAccount, TimeSpan
from launcher.run.ledger import Attempt
from launcher.run.pauses import Pause


def time_of_work(interval: float, save: float, between: float) -> float:
    """Time for each second of work with failures at random moments: Daly 2006, equation 20, without a restart time."""
    return between * math.expm1((interval + save) / between) / interval


@pytest.mark.parametrize(("save", "between"), [(1, 1e5), (30, 3600), (120, 86_400), (300, 1200), (60, 200)])
def test_no_other_interval_takes_clearly_less(save: float, between: float) -> None:
    candidates = [between * 1.01**power / 1000 for power in range(1200)]
    best = min(time_of_work(interval, save, between) for interval in candidates)

    assert time_of_work(daly_interval(save, between), save, between) < best * 1.003


def test_where_a_save_takes_longer_than_a_failure_leaves_the_interval_is_that_between_failures() -> None:
    assert daly_interval(500, 200) == 200


def test_only_ends_without_a_save_are_failures_and_only_checkpoints_are_saves() -> None:
    reasons = ("preempted", "killed", "time_limit", "node_failure", "hang", "stopped", "finished")
    attempts = [Attempt(number, reason=reason) for number, reason in enumerate(reasons)]
    pauses = [Pause(0, 1, "saving", 10.0, 20.0), Pause(0, 2, "saving", 10.0, 40.0), Pause(0, 3, "saving", 10.0, 30.0)]
    pauses += [Pause(0, 4, "evaluating", 10.0, 500.0), Pause(0, 5, "exporting", 10.0, 600.0)]

    advice = advise(attempts, pauses, TimeAccount((TimeSpan("queued", 0, 50), TimeSpan("useful", 50, 10850, 0))))

    assert (advice.failures, advice.saves, advice.save_seconds) == (3, 3, 30.0)
    assert advice.mean_seconds_between_failures == 3600
    assert advice.seconds == daly_interval(30, 3600)
    assert advise(attempts[:1], pauses, TimeAccount(())).seconds is None


def test_gpu_hours_count_time_on_nodes_alone() -> None:
    account = TimeAccount(
        (TimeSpan("queued", 0, 3600), TimeSpan("useful", 3600, 10800, 0), TimeSpan("lost", 0, 1800, 1))
    )
    recipe = {"resources": {"nodes": 2, "gpus_per_node": 4}}
    attempts = [Attempt(0, "7", nodes=["a1", "a2"]), Attempt(1, "7", nodes=["a1", "a2"])]

    used = consumption_of(recipe, {"gpus": {"type": "a100", "price": 1.5}}, account, attempts)
    unknown = consumption_of(recipe, {"gpus": {"type": "b17"}}, account, attempts)
    on_cpus = consumption_of({"resources": {"nodes": 2}}, {"gpus": {"price": 1.5}}, account, attempts)

    assert used.gpu_hours == {"useful": 16.0, "lost": 4.0}
    assert (used.cost, used.most_kwh) == (30.0, 8.0)
    assert (unknown.cost, unknown.most_kwh) == (None, None)
    assert (on_cpus.total_gpu_hours, on_cpus.cost, on_cpus.most_kwh) == (0, None, None)
