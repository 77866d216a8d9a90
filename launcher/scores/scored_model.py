"""An evaluation that takes part in a comparison, and what it is called there."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.artifacts.scores import EvaluationScores, find_scores, read_scores
from launcher.errors import LauncherError
from launcher.run.paths import SCORES


@dataclass(frozen=True)
class ScoredModel:
    """A model's scores and the folder that they were read from."""

    label: str
    """Its name in the comparison; no other one has it."""
    named: str
    """What the user wrote."""
    folder: Path
    """Holds scores.json and items.parquet."""
    scores: EvaluationScores


def open_models(places: Sequence[tuple[str, Path]]) -> list[ScoredModel]:
    """Read the scores of several evaluations.

    A model is called by its recipe's name; if several have the same, also by the id of the run, or by what the user
    wrote.

    Args:
        places: What the user wrote, and the file or folder that this means.

    Raises:
        LauncherError: some cannot be read, or are named twice; all such are reported at once.
    """
    found: list[tuple[str, Path, EvaluationScores]] = []
    errors = []
    for named, path in places:
        try:
            scores, file = read_scores(path), find_scores(path)
        except LauncherError as error:
            errors.append(str(error))
            continue
        assert file is not None  # it has been read
        if same := [other for other, folder, _ in found if folder == file.parent.resolve()]:
            errors.append(f"`{named}`: is the same evaluation as `{same[0]}`; name each one once")
        found.append((named, file.parent.resolve(), scores))
    if errors:
        raise LauncherError("\n".join(errors))
    labels = _labels(found)
    return [ScoredModel(label, *one) for label, one in zip(labels, found, strict=True)]


def choose_baseline(models: Sequence[ScoredModel], name: str | None) -> ScoredModel:
    """Find the model that the others are compared with.

    Args:
        models: All of them.
        name: Its name in the table, its recipe's, its run's id, or what the user wrote for it; None: the first one.

    Raises:
        LauncherError: none is called that, or several are.
    """
    if name is None:
        return models[0]
    ways: tuple[Callable[[ScoredModel], str], ...] = (
        lambda model: model.label,
        lambda model: model.named,
        lambda model: model.scores.run,
        lambda model: model.scores.name,
    )
    for way in ways:
        fitting = [model for model in models if way(model) == name]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            break
    said = "several models are called that" if fitting else "no model is called that"
    raise LauncherError(f"--baseline {name}: {said}; write one of {', '.join(f'`{one.label}`' for one in models)}")


def _labels(found: Sequence[tuple[str, Path, EvaluationScores]]) -> list[str]:
    """Call each by the shortest of three names that no other one has."""
    ways = [
        [scores.name for _, _, scores in found],
        [f"{scores.name} ({scores.run})" for _, _, scores in found],
        [f"{scores.name} ({named.removesuffix(f'/{SCORES}')})" for named, _, scores in found],
    ]
    counts = [Counter(labels) for labels in ways]
    return [
        next((label for label, count in zip(each, counts, strict=True) if count[label] == 1), each[-1])
        for each in zip(*ways, strict=True)
    ]
