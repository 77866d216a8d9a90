"""Tasks of `type: perplexity`: by token, word and byte.

With the negative log-likelihood L of the predicted tokens, in nats: token_perplexity exp(L / tokens), word_perplexity
exp(L / words), byte_perplexity exp(L / bytes), bits_per_byte L / bytes / ln 2 (as lm-eval 0.4.13), each over all
documents; document_perplexity exp(mean over documents of L / tokens). Those by word and byte can be compared between
models of different tokenizers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jobs.data.sampling.corpus_reader import Ids
from jobs.evaluation.batches import Batches, Row, cut
from jobs.evaluation.documents import ScoredDocuments, open_documents
from jobs.evaluation.loaded_model import UNBOUNDED, LoadedModel
from jobs.evaluation.report import PreparedTask, TaskReport, TaskSettings, digest, nonzero
from jobs.evaluation.token_scorer import TokenScorer
from jobs.evaluation.windows import DocumentPlaces, Window, windows_of_documents, windows_of_stream
from jobs.rank.context import Context
from launcher.artifacts.scores import Score, TaskScores
from launcher.artifacts.standard_errors import Mean, mean_of, ratio_of
from launcher.errors import LauncherError
from launcher.recipe.sections.perplexity_task import PerplexityTask
from launcher.recipe.sections.task_metrics import PERPLEXITY


class _Windows:
    """The windows of a task, and how one batch of them is scored."""

    def __init__(
        self, documents: ScoredDocuments, task: PerplexityTask, length: int, model: LoadedModel, key: str
    ) -> None:
        self._documents, self._key = documents, key
        self.places, stride = DocumentPlaces(documents.lengths), task.stride or length
        self.all: list[Window] = (
            windows_of_stream(self.places, length, stride)
            if task.scheme == "plain"
            else windows_of_documents(self.places, documents.lead, length, stride)
        )
        self._scorer = TokenScorer(model)

    def work(self, numbers: Sequence[int]) -> list[Row]:
        """Score windows.

        Raises:
            LauncherError: the model's logits are no numbers.
        """
        windows = [self.all[number] for number in numbers]
        tokens = [self._read(window.start, window.end) for window in windows]
        predicted = [ids[window.first - window.start :] for window, ids in zip(windows, tokens, strict=True)]
        values = self._scorer.score([ids[:-1] for ids in tokens], predicted)
        return [self._row(*one) for one in zip(numbers, windows, values, strict=True)]

    def _read(self, start: int, end: int) -> list[int]:
        parts: list[list[int]] = []
        for number, first, stop in self.places.parts(start, end):
            ids: Ids = self._documents.read(number)
            parts.append(ids[first:stop].tolist())
        return [token for part in parts for token in part]

    def _row(self, item: int, window: Window, values: Sequence[float]) -> Row:
        parts, sizes, place = [], [], 0
        for number, first, stop in self.places.parts(window.first, window.end):
            # In a stream of documents, windows also reach over what begins a document, which is not part of its text.
            its = values[place + max(0, min(stop, self._documents.lead) - first) : place + stop - first]
            place += stop - first
            if any(map(math.isnan, its)):
                name, _ = self._documents.name(number)
                raise LauncherError(
                    f"{self._key}: the model's logits are not numbers for document `{name}`; evaluate in another "
                    "`model.dtype`, or look at how it was trained"
                )
            parts.append((number, -math.fsum(its), len(its)))
            if stop == self.places.starts[number + 1] - self.places.starts[number]:
                sizes.append((number, *self._documents.size(number)))
        return {"item": item, "parts": parts, "sizes": sizes}


def prepare_perplexity(
    context: Context, recipe: TaskSettings, task: PerplexityTask, key: str, model: LoadedModel
) -> PreparedTask:
    """Read and tokenise the documents of a task, and cut them into windows and batches.

    Args:
        context: Knows where files and corpora are.
        recipe: The run's.
        task: The section.
        key: Of the task in the recipe.
        model: Predicts the tokens.

    Raises:
        LauncherError: the documents cannot be used, or the windows do not fit the model.
    """
    length = _window_length(task, key, model)
    documents = open_documents(context, task, key, model, recipe.max_bad_fraction)
    windows = _Windows(documents, task, length, model, key)
    given = {"given": documents.lead} if task.scheme == "plain" else {}
    items = digest(documents.identity, task.scheme, length, task.stride, *given.items())
    identity = digest(model.identity, items, recipe.tokens_per_batch)
    members = cut([window.length for window in windows.all], recipe.tokens_per_batch)

    def report(rows: Sequence[Row]) -> TaskReport:
        found = _by_document(documents, rows)
        settings = task.model_dump(mode="json", exclude_none=True) | {"windows": task.scheme, "length": length}
        counts = {**documents.counts, "windows": len(windows.all)}
        return TaskReport(_task_scores(found, documents, settings, counts, items), found)

    return PreparedTask(Batches(task.name, identity, members, windows.work), report)


def _window_length(task: PerplexityTask, key: str, model: LoadedModel) -> int:
    most = model.max_length
    if task.length is None and most == UNBOUNDED:
        raise LauncherError(f"{key}.length: the model does not say how many positions it has; write a `length`")
    if task.length and task.length > most:
        raise LauncherError(
            f"{key}.length: {task.length} is more than the model's {most} positions; write at most {most}"
        )
    length = task.length or most
    if task.stride and task.stride > length:
        raise LauncherError(f"{key}.stride: {task.stride} is more than the model's {length} positions; write less")
    return length


def _by_document(documents: ScoredDocuments, rows: Sequence[Row]) -> list[dict[str, Any]]:
    losses: list[list[float]] = [[] for _ in documents.lengths]
    tokens, sizes = [0] * len(losses), dict[int, Sequence[Any]]()
    for row in rows:
        for number, loss, count in row["parts"]:
            losses[number].append(loss)
            tokens[number] += count
        sizes |= {number: size for number, *size in row["sizes"]}
    found = []
    for number, its in enumerate(losses):
        (name, group), (words, size, sha256) = documents.name(number), sizes[number]
        found.append(
            {
                "id": name,
                "group": group,
                "prompt_sha256": sha256,
                "prediction": None,
                "answer": None,
                "details": None,
                "nll": math.fsum(its),
                "tokens": float(tokens[number]),
                "words": float(words),
                "bytes": float(size),
            }
        )
    return found


def _task_scores(
    found: Sequence[dict[str, Any]],
    documents: ScoredDocuments,
    settings: dict[str, Any],
    counts: dict[str, int],
    items: str,
) -> TaskScores:
    means = perplexity_means(found)
    return TaskScores(
        type="perplexity",
        headline="token_perplexity",
        n=len(found),
        scores={name: _score(mean, name) for name, mean in means.items()},
        lower_is_better=(*PERPLEXITY, "nll"),
        counts=nonzero(counts),
        files=documents.files,
        items_sha256=items,
        settings=settings,
        notes=(f"{len(found)} documents, not all",) if "limit" in settings else (),
    )


def perplexity_means(found: Sequence[dict[str, Any]]) -> dict[str, Mean]:
    """Return for each score the mean loss that it is made of; documents of one group are not independent."""
    groups = [item["group"] for item in found]
    clusters = [(group, 0 if group else number) for number, group in enumerate(groups)] if any(groups) else None
    losses = [item["nll"] for item in found]
    by_token, by_word, by_byte = (
        ratio_of(losses, [item[unit] for item in found], clusters) for unit in ("tokens", "words", "bytes")
    )
    predicted = [(item["nll"] / item["tokens"], number) for number, item in enumerate(found) if item["tokens"]]
    of_each = mean_of([loss for loss, _ in predicted], clusters and [clusters[number] for _, number in predicted])
    return dict(zip(PERPLEXITY, (by_token, by_word, by_byte, by_byte, of_each), strict=True))


def _score(mean: Mean, name: str) -> Score:
    """Turn a mean loss into a score: its exponential, with the ends of its interval, or its share of ln 2."""
    transform: Callable[[float], float | None] = _bits if name == "bits_per_byte" else _exponential
    value, error = transform(mean.value), mean.standard_error
    low, high = (transform(end) for end in mean.interval) if mean.interval else (None, None)
    if value is None or error is None:
        return Score(value=value, n=mean.n, clusters=mean.clusters)
    slope = 1 / math.log(2) if name == "bits_per_byte" else value
    return Score(value=value, standard_error=slope * error, low=low, high=high, n=mean.n, clusters=mean.clusters)


def _exponential(loss: float) -> float | None:
    """None: too large for a number."""
    return math.exp(loss) if loss < math.log(1e300) else None


def _bits(loss: float) -> float | None:
    return loss / math.log(2) if math.isfinite(loss) else None
