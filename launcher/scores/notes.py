"""What a reader has to know to judge scores that stand side by side."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher.scores.items import NAMES_OF_DATA
from launcher.scores.scored_model import ScoredModel

_FORMAT = ("dtype", "quantization", "attention")
_NO_SCORES = ("launcher",)
"""Of `versions`: does not tell how numbers were computed."""


def notes_on(models: Sequence[ScoredModel]) -> list[str]:
    """Collect what differs between evaluations besides their models, and what each says of its scores.

    Args:
        models: The baseline first.
    """
    tasks = list(dict.fromkeys(task for model in models for task in model.scores.tasks))
    lines = [*_missing_tasks(models, tasks)]
    for task in tasks:
        lines += _on_task(task, [model for model in models if task in model.scores.tasks])
    for what in _FORMAT:
        lines += _differing(f"{what} of the model", {model.label: model.scores.model.get(what) for model in models})
    for name in dict.fromkeys(name for model in models for name in model.scores.versions if name not in _NO_SCORES):
        lines += _differing(f"version of {name}", {model.label: model.scores.versions.get(name) for model in models})
    if closed := [f"`{model.label}`" for model in models if model.scores.data_use != "open"]:
        lines.append(f"credentialed: {', '.join(closed)}")
    return lines


def _missing_tasks(models: Sequence[ScoredModel], tasks: Sequence[str]) -> Iterator[str]:
    baseline = models[0]
    for task in tasks:
        having = [model for model in models if task in model.scores.tasks]
        if len(having) == len(models):
            continue
        names = ", ".join(f"`{model.label}`" for model in having)
        compared = baseline in having and len(having) > 1
        yield f"`{task}`: only in {names}{'' if compared else '; not compared'}"


def _on_task(task: str, models: Sequence[ScoredModel]) -> Iterator[str]:
    its = {model.label: model.scores.tasks[task] for model in models}
    for what in dict.fromkeys(what for scores in its.values() for what in scores.counts):
        yield from _differing(f"`{task}`: {what}", {label: scores.counts.get(what, 0) for label, scores in its.items()})
    for what in dict.fromkeys(key for scores in its.values() for key in scores.settings if key not in NAMES_OF_DATA):
        yield from _differing(f"`{task}`: {what}", {label: scores.settings.get(what) for label, scores in its.items()})
    saying: dict[str, list[str]] = {}
    for label, note in itertools.chain(*([(label, note) for note in scores.notes] for label, scores in its.items())):
        saying.setdefault(note, []).append(f"`{label}`")
    for note, labels in saying.items():
        yield f"`{task}`: {note}" + ("" if len(labels) == len(its) else f" ({', '.join(labels)})")


def _differing(what: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Say what each model has, unless it is the same for all."""
    said = {label: "none" if value is None else str(value) for label, value in values.items()}
    if len({*said.values()}) > 1:
        yield f"{what}: {', '.join(f'{value} (`{label}`)' for label, value in said.items())}"
