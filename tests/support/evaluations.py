"""Scores of evaluations for tests; the table of items is made by what publishes real ones."""

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import parquet

from jobs.evaluation.publish import _table
from jobs.evaluation.report import TaskReport, digest, text_digest
from launcher.artifacts.scores import ITEMS, EvaluationScores, Score, TaskScores, Training
from launcher.artifacts.standard_errors import mean_of, ratio_of
from launcher.run.paths import SCORES, RunDir

Items = list[dict[str, Any]]
UNITS = {"token_perplexity": "tokens", "word_perplexity": "words", "byte_perplexity": "bytes"}


def write_evaluation(
    folder: Path,
    tasks: Mapping[str, TaskReport],
    name: str = "model",
    run: str = "abc123",
    data_use: str = "open",
    trainings: Sequence[Training] = (),
    **model: Any,
) -> Path:
    """Write scores.json and items.parquet into the outputs of a run directory; return that directory."""
    outputs = RunDir(folder).outputs
    outputs.mkdir(parents=True)
    parquet.write_table(_table(tasks), outputs / ITEMS)
    scores = EvaluationScores(
        run=run,
        name=name,
        data_use=data_use,
        model={"path": name, "sha256": "0" * 64, "adapters": [], "dtype": "fp32", **model},
        versions={"torch": "2.13.0", "launcher": "0.1.0 abcdef"},
        trainings=tuple(trainings),
        tasks={task: report.scores for task, report in tasks.items()},
    )
    (outputs / SCORES).write_text(scores.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return folder


def answered(right: str, metric: str = "acc", groups: Sequence[str] = (), prompt: str = "question") -> Items:
    """Make items of which some are answered right: `1101`; ids count from q00."""
    return [
        {
            "id": f"q{place:02}",
            "group": groups[place] if groups else "",
            "prompt_sha256": text_digest(f"{prompt} {place}"),
            "answer": "A",
            metric: float(each),
        }
        for place, each in enumerate(right)
    ]


def texts(seed: int, count: int = 30, loss: float = 1.0, tokens_per_word: float = 1.5) -> Items:
    """Make items of a perplexity; texts of a seed are the same whatever their loss."""
    draw, noise = random.Random(seed), random.Random(f"{seed}/{loss}")
    rows = []
    for place in range(count):
        words = draw.randint(20, 200)
        nll = words * loss * noise.uniform(2.8, 3.2)
        size = {"tokens": round(words * tokens_per_word), "words": words, "bytes": 6 * words}
        rows.append({"id": f"t{place:02}", "group": "", "prompt_sha256": text_digest(f"{seed}"), "nll": nll, **size})
    return rows


def choice_report(items: Items, metric: str = "acc", lower: bool = False, **changes: Any) -> TaskReport:
    """Report on items whose scores are averaged."""
    clusters = [item["group"] or item["id"] for item in items]
    scores = {metric: Score.of(mean_of([item[metric] for item in items], clusters))}
    return TaskReport(_task(items, "choice", metric, scores, (metric,) if lower else (), **changes), items)


def perplexity_report(items: Items, headline: str = "byte_perplexity", **changes: Any) -> TaskReport:
    """Report on texts: perplexities by token, word, byte and document, and bits per byte."""
    nll = [item["nll"] for item in items]
    scores = {}
    for metric, unit in UNITS.items():
        mean = ratio_of(nll, [item[unit] for item in items], None)
        value = math.exp(mean.value)
        scores[metric] = Score(value=value, standard_error=value * (mean.standard_error or 0.0), n=len(items))
    by_document = mean_of([item["nll"] / item["tokens"] for item in items])
    scores["document_perplexity"] = Score(value=math.exp(by_document.value), n=len(items))
    bits = ratio_of([value / math.log(2) for value in nll], [item["bytes"] for item in items], None)
    scores["bits_per_byte"] = Score.of(bits)
    return TaskReport(_task(items, "perplexity", headline, scores, tuple(scores), **changes), items)


def _task(
    items: Items, kind: str, headline: str, scores: dict[str, Score], lower: tuple[str, ...], **changes: Any
) -> TaskScores:
    facts: dict[str, Any] = {
        "items_sha256": digest([(item["id"], item["prompt_sha256"], item.get("answer")) for item in items]),
        "settings": {"type": kind},
    }
    facts |= {"type": kind, "headline": headline, "lower_is_better": lower}
    return TaskScores(n=len(items), scores=scores, **(facts | changes))
