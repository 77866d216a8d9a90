"""Which trials are not worth going on with: Optuna's successive halving, on what the run directories say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from launcher.errors import RunError
from launcher.monitor.trials import PastTrial, read_past
from launcher.operate.search.sampler import freeze_trial, import_optuna
from launcher.recipe.base import Direction
from launcher.recipe.sections.search import HalvingPruner, Search
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.trials import search_of
from launcher.submit.search_record import SearchRecord


def find_hopeless_step(
    search: Search, direction: Direction, past: Sequence[PastTrial], number: int, after: int
) -> int | None:
    """Say at which of its newest evaluations a trial falls behind the others; None if it goes on.

    Args:
        search: What is searched.
        direction: Which values of the metric are better.
        past: All trials.
        number: The trial's.
        after: The last step that was judged before.
    """
    assert search.pruner is not None
    [judged] = [one for one in past if one.trial.number == number]
    others = [one for one in past if one.trial.number != number]
    steps = sorted(step for step in judged.reports if step > after)
    return next((step for step in steps if _is_hopeless(search, direction, others, judged, step)), None)


def _is_hopeless(
    search: Search, direction: Direction, others: Sequence[PastTrial], judged: PastTrial, step: int
) -> bool:
    """Ask Optuna's pruner, as if the trial had just reported this step."""
    assert search.pruner is not None
    optuna, wanted = import_optuna(), search.pruner
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=wanted.min_step, reduction_factor=wanted.factor)
    study = optuna.create_study(direction=direction, pruner=pruner)
    study.add_trials([freeze_trial(search, one, rung_values(wanted, one.reports)) for one in others])
    earlier = {at: value for at, value in judged.reports.items() if at < step}
    now = replace(judged, state="open", reports={**earlier, step: judged.reports[step]})
    study.add_trial(freeze_trial(search, now, rung_values(wanted, earlier)))
    trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[-1]._trial_id)
    return bool(trial.should_prune())


def rung_values(pruner: HalvingPruner, reports: Mapping[int, float]) -> dict[str, Any]:
    """Give what a trial had at each decision it has come to, under the names that Optuna uses.

    Args:
        pruner: Says at which steps decisions are made.
        reports: The trial's values by step.
    """
    found: dict[str, Any] = {}
    for rung in range(64):
        at = pruner.min_step * pruner.factor**rung
        reached = [step for step in sorted(reports) if step >= at]
        if not reached or math.isnan(reports[reached[0]]):  # a trial whose value is undefined goes no further
            break
        found[f"completed_rung_{rung}"] = reports[reached[0]]
    return found


def judge_run(run: RunDir, after: int) -> tuple[int | None, int]:
    """Judge the newest evaluations of a trial.

    Args:
        run: The trial's run.
        after: The last step that was judged before.

    Returns:
        The step at which it falls behind, None if it goes on, and the last step that was judged.

    Raises:
        RunError: The run is no trial of a search.
    """
    record = RunRecord.read(run.record)
    folder = search_of(run, record.sweep)
    if folder is None:
        raise RunError(f"`{run.root.name}`: is no trial of a search")
    found = SearchRecord.read(folder.record)
    past = read_past(folder, found.search.metric)
    own = next(one for one in past if one.trial.run == run.root.name)
    judged = max(own.reports, default=after)
    if found.search.pruner is None:
        return None, judged
    return find_hopeless_step(found.search, found.direction, past, own.trial.number, after), judged
