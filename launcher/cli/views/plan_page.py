"""The page that `launcher plan --html FILE` writes: light, dark and on paper, without scripts or other files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from launcher.cli.views.html_page import html_page
from launcher.cli.views.plan_bars import PARTS, MemoryBar, memory_bars, memory_legend, time_bars
from launcher.cli.views.plan_bars import STYLE as BARS
from launcher.cli.views.plan_view import (
    cost_words,
    count_words,
    least_words,
    mark_of,
    notes_on,
    rollout_words,
    safety_lines,
    seconds_words,
)
from launcher.cli.views.report_style import STYLE
from launcher.cli.views.wording import file_size, quantity
from launcher.plan.forecast import usable_memory

if TYPE_CHECKING:
    from launcher.artifacts.trace import Trace
    from launcher.cluster import Cluster
    from launcher.load import LoadedRecipe
    from launcher.pipeline.forecast import PipelineForecast
    from launcher.plan.alternatives import Alternative
    from launcher.plan.details import TrainingDetails

_WAYS = 12
"""Other ways that are drawn at most."""


@dataclass(frozen=True)
class RecipePlan:
    """A recipe, and all that is known of its plan."""

    loaded: "LoadedRecipe"
    details: "TrainingDetails | None"
    """None: there is nothing to estimate, for the reason in `why_nothing`."""
    trace: "Trace | None"
    others: "Sequence[Alternative]"
    why_nothing: str = ""


def page(recipes: Sequence[RecipePlan], pipelines: "dict[str, PipelineForecast]", cluster: "Cluster") -> str:
    """Make the page.

    Args:
        recipes: Each with its plan.
        pipelines: Forecasts of pipelines by their names.
        cluster: Where all of them are to run.
    """
    title = "Plan: " + ", ".join([*(one.loaded.recipe.name for one in recipes), *pipelines])
    parts = [
        f'<p class="soft">On {escape(cluster.name)}. All numbers are estimates by formulas; nothing was loaded or '
        "queued.</p>",
        *(line for one in recipes for line in _recipe(one, cluster)),
        *(line for name, found in pipelines.items() for line in _pipeline(name, found)),
    ]
    return html_page(title, STYLE + BARS, parts)


def _recipe(one: RecipePlan, cluster: "Cluster") -> Iterator[str]:
    recipe, found = one.loaded.recipe, one.details
    yield f"<h2>{escape(recipe.name)}</h2>"
    if found is None:
        yield f"<p>{escape(one.why_nothing)}</p>"
        return
    trained = "" if found.trained in (None, found.parameters) else f", {found.trained:,} of them trained"
    yield f"<p>{found.parameters:,} parameters{trained}</p>"
    size = cluster.gpus.memory or getattr(recipe.resources, "gpu_memory", None)
    limit = usable_memory(size) if size else None
    yield from _memory(one, limit)
    yield from _ways(one, limit)
    yield from _time(found)
    yield from _messages(one)
    yield from _whole_run(found, cluster)


def _memory(one: RecipePlan, limit: int | None) -> Iterator[str]:
    found = one.details
    bars: list[MemoryBar] = []
    if found and found.memory:
        parts = {part: getattr(found.memory, part, 0) for part in PARTS}
        bars.append(MemoryBar("formula", parts, file_size(found.memory.total)))
    if one.trace:
        bars.append(MemoryBar("trace, without CUDA and NCCL", dict(one.trace.memory), file_size(one.trace.total)))
    if not bars:
        return
    yield "<h3>Memory of a GPU</h3>"
    if limit:
        fits = "fits" if bars[0].bytes <= limit else "does not fit"
        yield f"<p>{file_size(bars[0].bytes)} of {file_size(limit)}: {fits}</p>"
    else:
        yield "<p>How much a GPU has is not known; write <code>gpus.memory</code> into the cluster profile.</p>"
    yield memory_bars(bars, limit) + memory_legend(bars)
    there = [part for part in PARTS if any(bar.parts.get(part) for bar in bars)]
    rows = [[bar.label, *(file_size(bar.parts.get(part, 0)) for part in there), bar.total] for bar in bars]
    yield _table(["", *there, "all"], rows)
    if one.trace:
        yield f'<p class="soft">The traced peak is in {escape(one.trace.place)}.</p>'


def _ways(one: RecipePlan, limit: int | None) -> Iterator[str]:
    if not one.others or one.details is None:
        return
    yield f"<h3>Ways that fit, cheapest first{' (times are lower bounds)' * one.details.is_least}</h3>"
    steps = one.details.steps
    rows: list[list[str]] = []
    bars: list[MemoryBar] = []
    for way in one.others[:_WAYS]:
        name = way.strategy if way.recomputes == "none" else f"{way.strategy}, {way.recomputes}"
        size, nodes = file_size(way.memory), f"{way.nodes} node{'s' * (way.nodes != 1)}"
        bars.append(MemoryBar(f"{nodes}, {name}, micro batch {way.micro_batch}", {PARTS[0]: way.memory}, size))
        whole = [f"{way.step_seconds * steps / 86400:.1f}", quantity(way.gpu_hours_per_step * steps)] if steps else []
        rows.append([name, str(way.nodes), str(way.micro_batch), size, seconds_words(way.step_seconds), *whole])
    heads = ["strategy, recomputing", "nodes", "micro batch", "GPU memory", "step"]
    yield _table(heads + ["days", "GPU-hours"] * bool(steps), rows)
    yield memory_bars(bars, limit)


def _time(found: "TrainingDetails") -> Iterator[str]:
    step = found.step
    if step is None:
        return
    yield "<h3>Time of a step</h3>"
    rate = f", {quantity(found.tokens_per_second)} tokens/s" if found.tokens_per_second else ""
    rollout = f", and its part of a rollout is added: {rollout_words(step.rollout)}" if step.rollout else ""
    yield (
        f"<p>{least_words(found)}{seconds_words(step.seconds)}{rate}; computes at {step.mfu:.0%} of the peak. What is "
        f"sent while GPUs compute takes no time of its own, so the longest bar is the step{rollout}.</p>"
    )
    rows = [("computing", "computing", step.computing, seconds_words(step.computing))]
    rows += [(f"sending {level}", "sending", taken, seconds_words(taken)) for level, taken in step.sending.items()]
    yield time_bars(rows)


def _messages(one: RecipePlan) -> Iterator[str]:
    traffic = one.details.step.traffic if one.details and one.details.step else ()
    if traffic:
        yield "<h3>What a rank sends in a step</h3>"
        yield _table(("", "level", "bytes"), [[each.name, each.level, file_size(each.bytes)] for each in traffic])
    if one.trace and one.trace.messages:
        yield "<h3>What a rank sends in a step, traced</h3>"
        rows = [
            [each.name, each.dimension, str(each.ranks), f"{each.count:,}", file_size(each.bytes)]
            for each in one.trace.messages
        ]
        yield _table(("", "group", "ranks", "messages", "bytes"), rows)


def _whole_run(found: "TrainingDetails", cluster: "Cluster") -> Iterator[str]:
    facts: list[tuple[str, str]] = []
    if found.steps and found.tokens:
        facts.append(("length", f"{found.steps:,} steps, {quantity(found.tokens)} tokens"))
    if found.days and found.gpu_hours:
        facts.append(("time", f"{least_words(found)}{found.days:.1f} days without the queue"))
        facts.append(("cost", f"{least_words(found)}{quantity(found.gpu_hours)} GPU-hours{cost_words(found)}"))
    facts += [(name, text) for name, text in safety_lines(cluster, found) if name]
    memory = {"RAM to load": found.loading, "RAM to train": found.offloaded, "RAM to save": found.copied}
    facts += [(name, f"{file_size(needed)} of a node") for name, needed in memory.items() if needed]
    if facts:
        yield "<h3>The whole run</h3>"
        yield f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in facts)}</dl>"


def _pipeline(name: str, found: "PipelineForecast") -> Iterator[str]:
    yield f"<h2>{escape(name)}</h2>"
    price = f", price {found.price:,.0f}" if found.price is not None else ""
    yield (
        f"<p>{found.days:.1f} days without the queue ({escape(' → '.join(found.longest))}), "
        f"{quantity(found.gpu_hours)} GPU-hours{price}, if nothing has been done yet.</p>"
    )
    rows = [(one.name, "computing", one.days, f"{one.days:.2f} d{mark_of(one)}") for one in found.stages]
    if any(days for _, _, days, _ in rows):
        yield time_bars(rows)
    table = [
        [f"{one.name}{count_words(one)}", ", ".join(one.awaits), f"{one.days:.2f}", quantity(one.gpu_hours) or "0"]
        for one in found.stages
    ]
    yield _table(("stage", "after", "days", "GPU-hours"), table)
    yield from (f'<p class="soft">{note}.</p>' for note in notes_on(found.stages))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(
        f'<th scope="col"{_text_column(place, rows)}>{escape(name)}</th>' for place, name in enumerate(heads)
    )
    body = "\n".join(
        f"<tr>{''.join(f'<td{_text_column(place, rows)}>{escape(cell)}</td>' for place, cell in enumerate(row))}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text_column(place: int, rows: Sequence[Sequence[str]]) -> str:
    """Align words to the left, numbers to the right."""
    return ' class="text"' if place and any(row[place][:1].isalpha() for row in rows) else ""
