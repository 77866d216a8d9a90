"""Scores of an evaluation: `outputs/scores.json`, and a row for each item in `outputs/items.parquet`.

Columns of items.parquet: `task`, `id`, `group`, `prompt_sha256`, `prediction`, `answer`, `details` (JSON), and one
column for each metric, empty for items of tasks that lack it. Perplexities have `nll`, `tokens`, `words` and `bytes`.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from launcher.artifacts.standard_errors import Mean
from launcher.errors import LauncherError
from launcher.run.paths import SCORES
from launcher.run.typed import read_object

ITEMS = "items.parquet"
FIXED_COLUMNS = ("task", "id", "group", "prompt_sha256", "prediction", "answer", "details")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Entry):
    """One number with its uncertainty."""

    value: float | None
    """None: undefined."""
    standard_error: float | None = None
    low: float | None = None
    """Ends of the 95 % interval."""
    high: float | None = None
    n: int
    clusters: int | None = None
    """Groups of items that are not independent, if there are any."""

    @classmethod
    def of(cls, mean: Mean) -> "Score":
        """Make one of a mean."""
        low, high = mean.interval or (None, None)
        return cls(
            value=mean.value, standard_error=mean.standard_error, low=low, high=high, n=mean.n, clusters=mean.clusters
        )


class ScoredFile(_Entry):
    """A file that items came from."""

    path: str
    sha256: str


class TaskScores(_Entry):
    """What a task came to."""

    type: str
    headline: str
    """The metric to show where there is room for one."""
    n: int
    scores: dict[str, Score]
    lower_is_better: tuple[str, ...] = ()
    """Metrics that are better the lower they are."""
    counts: dict[str, int] = {}
    """Items that were treated in a special way, by what was done: `truncated prompts`."""
    files: tuple[ScoredFile, ...] = ()
    items_sha256: str
    """Equal for the same items with the same prompts."""
    settings: dict[str, Any] = {}
    """The task in the recipe."""
    notes: tuple[str, ...] = ()
    """What a reader has to know, such as whether the training corpus was decontaminated."""


class Training(_Entry):
    """How a model or an adapter was trained, as far as its manifest says so."""

    name: str
    """Its name in the recipe."""
    method: str | None = None
    """Equal for trainings that differ in their seeds only; None: not made by this launcher."""
    seed: int | None = None


class EvaluationScores(_Entry):
    """Content of scores.json."""

    run: str
    name: str
    """Of the recipe."""
    data_use: str
    model: dict[str, Any]
    """Path, checksums, adapters and number format."""
    versions: dict[str, str]
    """Of the libraries that computed the scores, and of the launcher."""
    trainings: tuple[Training, ...] = ()
    """Of the model and its adapters; of a merged model, those that it was made of."""
    tasks: dict[str, TaskScores]
    notes: tuple[str, ...] = ()
    """What a reader has to know of all tasks, such as which ones were left out."""


def plus_minus(encoding: str | None) -> str:
    """Return what stands before a standard error: `±`, or `+/-` where that cannot be written.

    Args:
        encoding: Of the file or terminal.
    """
    return "±" if (encoding or "").lower().startswith("utf") else "+/-"


def find_scores(path: Path) -> Path | None:
    """Return the scores.json that a path leads to: itself, or in a run's `outputs`, or in a run directory."""
    return next((one for one in (path, path / SCORES, path / "outputs" / SCORES) if os.path.isfile(one)), None)


def read_split_scores(path: Path) -> dict[str, dict[str, float | None]] | None:
    """Read the scores of a `classify` run by split and metric; None if there are none.

    Args:
        path: As `find_scores` takes it.
    """
    file = find_scores(path)
    try:
        splits = read_object(file)["splits"] if file else None
        return splits and {
            name: {metric: score["value"] for metric, score in split["scores"].items()}
            for name, split in splits.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def read_scores(path: Path) -> EvaluationScores:
    """Read scores.json.

    Args:
        path: The file, a run's `outputs` or the run directory.

    Raises:
        LauncherError: there is none, or it is not one.
    """
    file = find_scores(path)
    if file is None:
        raise LauncherError(f"{path}: holds no {SCORES}; name a finished run of `kind: evaluate`, or its {SCORES}")
    try:
        return EvaluationScores.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise LauncherError(f"{file}: {key}: {first['msg']}; name the {SCORES} of an evaluation") from None
