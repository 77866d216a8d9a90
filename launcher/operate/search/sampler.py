"""Values for the next trial of a search.

Optuna is imported only where it is needed, on the nodes: in memory, and made anew from the run directories each time.
Its files of its own lose trials when a process is killed while it writes.
"""

import json
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launcher.errors import LauncherError, how_to_install
from launcher.load.sweep_points import draw_number, shorten
from launcher.monitor.trials import PastTrial, TrialState
from launcher.recipe.base import Direction
from launcher.recipe.sections.search import Search
from launcher.recipe.sections.sweep import DrawnKey

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_RANDOM_FIRST = 10
"""Trials that are drawn at random before what they came to is looked at, as Optuna has it by default."""
_CANDIDATES = 24


def suggest(
    search: Search, direction: Direction, number: int, past: Sequence[PastTrial], again: int = 0
) -> dict[str, Any]:
    """Choose the values of a trial.

    Args:
        search: What is searched.
        direction: Which values of the metric are better.
        number: The trial's.
        past: The trials that there are.
        again: How many choices for this trial could not be used.
    """
    if search.method == "grid":
        return search.grid_point(number)
    if search.method == "random":
        return {key: _draw(search, key, number, again) for key in search.space}
    return _suggest_by_tpe(search, direction, number, past, again)


def _draw(search: Search, key: str, number: int, again: int) -> Any:
    """Draw a value that depends on nothing but the search and the trial's number."""
    stream = random.Random(f"{search.seed} {key} {number} {again}")  # noqa: S311 - no secret
    choices = search.choices.get(key)
    if choices:
        return stream.choice(choices)
    drawn = search.space[key]
    assert isinstance(drawn, DrawnKey)
    return draw_number(drawn, stream)


def _suggest_by_tpe(
    search: Search, direction: Direction, number: int, past: Sequence[PastTrial], again: int
) -> dict[str, Any]:
    optuna = import_optuna()
    stream = random.Random(f"{search.seed} {number} {again}")  # noqa: S311 - no secret
    sampler = optuna.samplers.TPESampler(
        seed=stream.randrange(2**32),
        multivariate=True,
        constant_liar=True,
        n_startup_trials=_RANDOM_FIRST,
        n_ei_candidates=_CANDIDATES,
    )
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.add_trials([freeze_trial(search, one) for one in past])
    asked = study.ask(distributions(search))
    return {key: _plain(search, key, value) for key, value in asked.params.items()}


def import_optuna() -> Any:
    """Import Optuna, silent.

    Raises:
        LauncherError: It is not installed.
    """
    import warnings

    try:
        import optuna
    except ImportError as error:
        raise LauncherError(f"search: {error}; install it for the nodes with {how_to_install('search')}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def distributions(search: Search) -> dict[str, "BaseDistribution"]:
    """Write the space as Optuna does; choices are numbers, since it takes no lists."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, one in search.space.items():
        if choices := search.choices.get(key):
            found[key] = CategoricalDistribution(range(len(choices)))
            continue
        assert isinstance(one, DrawnKey) and one.low is not None and one.high is not None
        is_log = one.scale == "log"
        if isinstance(one.low, int) and isinstance(one.high, int):
            found[key] = IntDistribution(one.low, one.high, log=is_log)
        else:
            found[key] = FloatDistribution(one.low, one.high, log=is_log)
    return found


def _plain(search: Search, key: str, value: Any) -> Any:
    if choices := search.choices.get(key):
        return choices[value]
    drawn = search.space[key]
    assert isinstance(drawn, DrawnKey)
    return shorten(value, drawn)


def _coded(search: Search, key: str, value: Any) -> Any:
    """The value as Optuna knows it; None if it is not in the space."""
    if choices := search.choices.get(key):
        same = [place for place, choice in enumerate(choices) if json.dumps(choice) == json.dumps(value)]
        return same[0] if same else None
    return value


_STATES: Mapping[TrialState, str] = {
    "finished": "COMPLETE",
    "pruned": "PRUNED",
    "failed": "FAIL",
    "stopped": "FAIL",
    "open": "RUNNING",
}


def freeze_trial(search: Search, one: PastTrial, attributes: Mapping[str, Any] | None = None) -> "FrozenTrial":
    """Write a trial as Optuna does.

    Args:
        search: What is searched.
        one: The trial.
        attributes: What Optuna itself would have noted at it.
    """
    from optuna.trial import TrialState as States
    from optuna.trial import create_trial

    name = _STATES[one.state]
    if name == "COMPLETE" and one.value is None:  # it finished and has no such value
        name = "FAIL"
    return create_trial(
        state=States[name],
        value=one.value if name in ("COMPLETE", "PRUNED") else None,
        params={key: _coded(search, key, value) for key, value in one.trial.values.items()},
        distributions=distributions(search),
        intermediate_values=dict(one.reports),
        system_attrs=dict(attributes or {}),
    )
