"""What `launcher plan` shows: it fits into 80 columns."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from launcher.cli.views.wording import duration, file_size, quantity
from launcher.plan.forecast import usable_memory

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.load import LoadedRecipe
    from launcher.pipeline.forecast import PipelineForecast, StageForecast
    from launcher.plan.alternatives import Alternative
    from launcher.plan.cost import RunCost
    from launcher.plan.details import TrainingDetails
    from launcher.plan.repeated import RepeatedForecast
    from launcher.plan.rollout import RolloutTime

_PARTS = ("parameters", "gathered", "gradients", "optimizer", "activations", "logits", "cache", "overhead")


def print_details(item: "LoadedRecipe", cluster: "Cluster", found: "TrainingDetails") -> None:
    """Print what a training needs and costs, a line a subject."""
    out = Console(highlight=False, markup=False, emoji=False)
    out.print(f"{item.recipe.name} on {cluster.name} (estimates)", style="bold", soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, text in _lines(item, cluster, found):
        table.add_row(name, text)
    out.print(table)


def _lines(item: "LoadedRecipe", cluster: "Cluster", found: "TrainingDetails") -> Iterator[tuple[str, str]]:
    trained = "" if found.trained in (None, found.parameters) else f", {found.trained:,} of them trained"
    yield "model", f"{found.parameters:,} parameters{trained}"
    yield from _memory_lines(item, cluster, found)
    yield from _time_lines(found)
    yield from safety_lines(cluster, found)


def _memory_lines(item: "LoadedRecipe", cluster: "Cluster", found: "TrainingDetails") -> Iterator[tuple[str, str]]:
    if found.memory is not None:
        size = cluster.gpus.memory or getattr(item.recipe.resources, "gpu_memory", None)
        verdict = ""
        if size:
            room = usable_memory(size)
            verdict = f" of {file_size(room)}: {'fits' if found.memory.total <= room else 'does not fit'}"
        yield "GPU memory", f"{file_size(found.memory.total)}{verdict}"
        parts = [f"{part} {file_size(getattr(found.memory, part))}" for part in _PARTS]
        yield "", ", ".join(part for part in parts if not part.endswith(" 0 bytes"))
    needs = {"RAM to load": found.loading, "RAM to train": found.offloaded, "RAM to save": found.copied}
    for name, needed in needs.items():
        if needed:
            yield name, f"{file_size(needed)} of a node"


def _time_lines(found: "TrainingDetails") -> Iterator[tuple[str, str]]:
    if found.step and found.tokens_per_second:
        rate = f"{quantity(found.tokens_per_second)} tokens/s; computes at {found.step.mfu:.0%} of the peak"
        yield "step", f"{least_words(found)}{seconds_words(found.step.seconds)}, {rate}"
        for one in found.step.traffic:
            yield "", f"a rank sends {file_size(one.bytes)} {one.level}: {one.name}"
        for level, seconds in found.step.sending.items():
            computing = seconds_words(found.step.computing)
            yield "", f"{seconds_words(seconds)} of sending {level}, beside {computing} of computing"
        if rollout := found.step.rollout:
            yield "", rollout_words(rollout)
    if found.steps and found.tokens:
        long = f", {least_words(found)}{found.days:.1f} days" if found.days else ""
        yield "whole run", f"{found.steps:,} steps, {quantity(found.tokens)} tokens{long}"
    if found.gpu_hours:
        yield "", f"{least_words(found)}{quantity(found.gpu_hours)} GPU-hours{cost_words(found)}"


def rollout_words(rollout: "RolloutTime") -> str:
    """Say what a rollout takes of the time."""
    of = f" before {rollout.steps} steps" if rollout.steps > 1 else ""
    return (
        f"{seconds_words(rollout.sampling)} of sampling{of}, as fast as memory is read, and "
        f"{seconds_words(rollout.judging)} of judging"
    )


def least_words(found: "TrainingDetails | RunCost") -> str:
    """Say that a time or a cost is a lower bound, before it."""
    return "at least " if found.is_least else ""


def cost_words(found: "TrainingDetails") -> str:
    """Say what the energy and the price are, after the GPU-hours."""
    energy = f", {found.megawatt_hours:.3g} MWh" if found.megawatt_hours else ""
    return energy + (f", price {found.price:,.0f}" if found.price is not None else "")


def safety_lines(cluster: "Cluster", found: "TrainingDetails") -> Iterator[tuple[str, str]]:
    """Say what a checkpoint takes, and what warning a stop needs; a name and a text each."""
    if found.checkpoint_bytes and found.save_seconds:
        speed = found.checkpoint_bytes / found.save_seconds
        rate = f"{seconds_words(found.save_seconds)} at {file_size(round(speed))}/s"
        if found.copied:
            rate = f"training waits {seconds_words(found.stall_seconds)} for a copy, which is written in {rate}"
        often = f"; every {duration(found.best_interval)} loses least" if found.best_interval else ""
        yield "checkpoint", f"{file_size(found.checkpoint_bytes)}, {rate}{often}"
    if found.wanted_lead:
        lead = cluster.slurm.lead
        enough = "enough" + (", if sampling is as fast" if found.is_least else "")
        if lead.seconds < found.wanted_lead:
            enough = "too short; write more as `slurm.lead`"
        saves = "save twice (one may be under way)" if found.copied else "save"
        first = "a rollout, " if found.step and found.step.rollout else ""
        needed = f"{least_words(found)}{duration(found.wanted_lead)} to finish {first}a step and {saves}"
        yield "warning time", f"{needed}; `slurm.lead` {lead}: {enough}"


def print_alternatives(others: "Sequence[Alternative]", found: "TrainingDetails") -> None:
    """Print other ways to run it, the cheapest first."""
    out = Console(highlight=False, markup=False, emoji=False)
    if not others:
        return
    least = " (times are lower bounds)" if found.is_least else ""
    out.print(f"\nways that fit, cheapest first{least}", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("nodes", "micro batch", "GPU memory", "days", "GPU-hours"):
        table.add_column(column, justify="right")
    table.add_column("strategy, recomputing")
    steps = found.steps
    for one in others:
        days = f"{one.step_seconds * steps / 86400:.1f}" if steps else ""
        hours = quantity(one.gpu_hours_per_step * steps) if steps else ""
        way = one.strategy if one.recomputes == "none" else f"{one.strategy}, {one.recomputes}"
        table.add_row(str(one.nodes), str(one.micro_batch), file_size(one.memory), days, hours, way)
    out.print(table)


def print_pipeline(name: str, cluster: "Cluster", found: "PipelineForecast") -> None:
    """Print what each stage of a pipeline takes, and all of them."""
    out = Console(highlight=False, markup=False, emoji=False)
    out.print(f"{name} on {cluster.name} (estimates, nothing done yet)", style="bold", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage", overflow="fold")
    table.add_column("days", justify="right", no_wrap=True)
    table.add_column("GPU-hours", justify="right", no_wrap=True)
    table.add_column("after", overflow="fold")
    for stage in found.stages:
        mark, hours = mark_of(stage).ljust(2), quantity(stage.gpu_hours) if stage.gpu_hours else "0"
        table.add_row(
            f"{stage.name}{count_words(stage)}", f"{stage.days:.2f}{mark}", f"{hours}{mark}", ", ".join(stage.awaits)
        )
    out.print(table)
    price = f", price {found.price:,.0f}" if found.price is not None else ""
    out.print(f"all stages: {quantity(found.gpu_hours)} GPU-hours{price}", soft_wrap=True)
    out.print(f"{found.days:.1f} days without the queue: {' -> '.join(found.longest)}", soft_wrap=True)
    for note in notes_on(found.stages):
        out.print(note, soft_wrap=True)


def print_repeated(found: "RepeatedForecast", cluster: "Cluster") -> None:
    """Print what a sweep or a search comes to."""
    out = Console(highlight=False, markup=False, emoji=False)
    price = "" if cluster.gpus.price is None else f", price {found.gpu_hours * cluster.gpus.price:,.0f}"
    mark = ", if each is one attempt up to its time limit" if found.is_limit else ""
    mark += ", at the least" if found.is_least else ""
    runs = f"{found.runs} runs, {found.at_once} at once"
    cost = f"{quantity(found.gpu_hours) or '0'} GPU-hours{price}"
    out.print(f"{found.name}: {runs}: {cost}, {found.days:.1f} days without the queue{mark}", soft_wrap=True)


def mark_of(stage: "StageForecast") -> str:
    """Mark a stage whose numbers are no plain estimates; `notes_on` says what the mark means."""
    return " *" if stage.is_limit else " +" if stage.is_least else ""


def notes_on(stages: "Sequence[StageForecast]") -> Iterator[str]:
    """Say what the marks of stages mean."""
    if any(one.is_limit for one in stages):
        yield "* no estimate: one attempt up to its time limit; a training may need several"
    if any(one.is_least and not one.is_limit for one in stages):
        yield "+ at least: sampling is counted as fast as a GPU reads its memory"


def count_words(stage: "StageForecast") -> str:
    """Say how many runs a stage is, if it is a sweep or a search."""
    if stage.trials:
        return f" ({stage.trials} trials)"
    return f" ({stage.points} points)" if stage.points else ""


def seconds_words(value: float | None) -> str:
    """Say a time of which fractions of a second matter."""
    if value is None:
        return ""
    return f"{value:.3g} s" if value < 60 else duration(value)
