"""The items behind scores, read from items.parquet; and whether two models were scored on the same ones."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.artifacts.scores import FIXED_COLUMNS, ITEMS, TaskScores
from launcher.errors import LauncherError, how_to_install

_NAMED = 3
"""Ids that a message names."""
NAMES_OF_DATA = ("files", "examples", "only", "name", "corpus", "source")
"""Settings that say where items come from. They do not count: what is there is compared item by item."""
_OF_MODELS = ("length",)
"""Settings of a perplexity that a model has a value of its own for."""
_OF_PREDICTIONS = "an earlier version scored one of them, when the order of rows counted; evaluate both again"
"""What is left for saved predictions, whose settings and rows tell all other differences."""
_READ = ("task", "id", "group", "prompt_sha256", "answer")


@dataclass(frozen=True)
class TaskItems:
    """The items of a task, ordered by their ids."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    """What each item belongs to: its group, or itself."""
    prompts: tuple[str, ...]
    """SHA-256 of each prompt."""
    answers: tuple[str, ...]
    values: Mapping[str, tuple[float | None, ...]]
    """By the column of a metric, or of what a perplexity is made of."""


@dataclass(frozen=True)
class TaskResult:
    """What a model came to in a task."""

    label: str
    """Of the model."""
    data_use: str
    """Of the evaluation. If it is not open, ids can be those of patients, and right answers may be withheld."""
    scores: TaskScores
    items: TaskItems


def read_items(folder: Path) -> dict[str, TaskItems]:
    """Read the items of an evaluation, by task.

    Args:
        folder: Holds items.parquet.

    Raises:
        LauncherError: the file is missing or damaged, ids are not unique, or pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise LauncherError(f"`pyarrow` is missing; install it with {how_to_install('data')}") from None
    path = folder / ITEMS
    if not path.is_file():
        raise LauncherError(f"{path}: is missing; copy it too, since scores are compared item by item")
    try:
        names = parquet.read_schema(path).names
        columns = [name for name in names if name in _READ or name not in FIXED_COLUMNS]
        rows = parquet.read_table(path, columns=columns).to_pylist()
    except (ArrowException, OSError) as error:
        first = str(error).partition("\n")[0]
        raise LauncherError(f"{path}: cannot be read ({first}); copy it again, or evaluate again") from None
    if lacking := [name for name in _READ if name not in names]:
        raise LauncherError(f"{path}: has no column `{lacking[0]}`; name the {ITEMS} of an evaluation")
    return _by_task(path, rows, [name for name in columns if name not in _READ])


def explain_other_items(task: str, baseline: TaskResult, other: TaskResult) -> str | None:
    """Say how the items of two models differ in a task; None if they are the same with the same prompts.

    Args:
        task: Its name.
        baseline: Result of the baseline.
        other: Result of another model.
    """
    settings = dict(_settings_that_differ(baseline, other))
    if (baseline.items.ids, baseline.items.prompts) == (other.items.ids, other.items.prompts):
        if baseline.scores.items_sha256 == other.scores.items_sha256:
            return None
        if baseline.scores.type == other.scores.type == "perplexity" and not settings.keys() - {*_OF_MODELS}:
            return None  # the same texts, in tokens of other tokenizers
    reasons = [*_reasons(baseline, other), *settings.values()]
    is_saved = baseline.scores.type == other.scores.type == "classification"
    said = "; ".join(reasons) or (_OF_PREDICTIONS if is_saved else "the texts of their options differ")
    return f"`{task}`: `{baseline.label}` and `{other.label}` were not scored on the same items: {said}"


def _by_task(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, TaskItems]:
    tasks: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        tasks[row["task"]].append(row)
    for task, its in tasks.items():
        identifier, count = Counter(row["id"] for row in its).most_common(1)[0]
        if identifier is None or count > 1:
            raise LauncherError(f"{path}: ids of the items of `{task}` are not unique; evaluate again")
        its.sort(key=lambda row: str(row["id"]))
    return {task: _task_items(its, columns) for task, its in tasks.items()}


def _task_items(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> TaskItems:
    return TaskItems(
        ids=tuple(row["id"] for row in rows),
        clusters=tuple(f"group {row['group']}" if row["group"] else f"item {row['id']}" for row in rows),
        prompts=tuple(row["prompt_sha256"] or "" for row in rows),
        answers=tuple(row["answer"] or "" for row in rows),
        values={name: tuple(row[name] for row in rows) for name in columns},
    )


def _reasons(baseline: TaskResult, other: TaskResult) -> Iterator[str]:
    ours, theirs = _by_id(baseline.items), _by_id(other.items)
    both = [one for one in ours if one in theirs]
    may_name_ids, tells_alike = baseline.data_use == other.data_use == "open", baseline.data_use == other.data_use
    answered = [one for one in both if tells_alike and ours[one][1] != theirs[one][1]]
    kinds = [
        (f"are only in `{baseline.label}`", ours, [one for one in ours if one not in theirs]),
        (f"are only in `{other.label}`", theirs, [one for one in theirs if one not in ours]),
        ("have other prompts", both, [one for one in both if ours[one][0] != theirs[one][0]]),
        ("have other right answers", both, answered),
    ]
    for what, of, ids in kinds:
        if ids:
            first = f" (first {', '.join(f'`{one}`' for one in ids[:_NAMED])})" if may_name_ids else ""
            yield f"{len(ids):,} of {len(of):,} items {what}{first}"


def _settings_that_differ(baseline: TaskResult, other: TaskResult) -> Iterator[tuple[str, str]]:
    ours, theirs = baseline.scores.settings, other.scores.settings
    for key in sorted({*ours, *theirs} - {*NAMES_OF_DATA}):
        if ours.get(key) != theirs.get(key):
            said = (f"{_said(its.get(key))} (`{one.label}`)" for its, one in ((ours, baseline), (theirs, other)))
            yield key, f"`{key}` is {' and '.join(said)}"


def _by_id(items: TaskItems) -> dict[str, tuple[str, str]]:
    return dict(zip(items.ids, zip(items.prompts, items.answers, strict=True), strict=True))


def _said(value: Any) -> str:
    return "not set" if value is None else f"`{value}`"
