"""What a trace found, beside the closed form: it fits into 80 columns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from launcher.artifacts.trace import PARTS
from launcher.cli.views.wording import file_size

if TYPE_CHECKING:
    from launcher.artifacts.trace import Trace
    from launcher.plan.memory import MemoryEstimate

_LARGE = 1_000_000
"""Bytes of a message that is worth a line: losses and norms are a few."""


def print_trace(traced: "Trace", estimate: "MemoryEstimate | None") -> None:
    """Print memory by part and messages, with the closed form's estimate of the memory if there is one."""
    out = Console(highlight=False, markup=False, emoji=False)
    models = " and ".join(map(str, traced.layers))
    out.print(f"\ntraced with {models} layers (a rank, without CUDA and NCCL)", style="bold", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("memory", no_wrap=True)
    table.add_column("formula", justify="right")
    table.add_column("trace", justify="right")
    for row in _memory_rows(traced, estimate):
        table.add_row(*row)
    out.print(table)
    out.print(f"at the peak: {traced.place}", soft_wrap=True)
    for line in _messages(traced):
        out.print(line, soft_wrap=True)


def _memory_rows(traced: "Trace", estimate: "MemoryEstimate | None") -> Iterator[tuple[str, str, str]]:
    formula = by_part(estimate) if estimate else {}
    for part in PARTS:
        if traced.memory[part] or formula.get(part):
            yield part, file_size(formula[part]) if part in formula else "", file_size(traced.memory[part])
    yield "all", file_size(sum(formula.values())) if formula else "", file_size(traced.total)


def by_part(estimate: "MemoryEstimate") -> dict[str, int]:
    """Return the parts of the closed form that a trace has as well."""
    parts = {part: getattr(estimate, part) for part in PARTS if part != "other"}
    return parts | {"activations": estimate.activations + estimate.logits}


def _messages(traced: "Trace") -> Iterator[str]:
    for one in traced.messages:
        if one.bytes >= _LARGE:
            ranks = f"{one.ranks} ranks" + ("" if one.dimension == "all" else f" of `{one.dimension}`")
            yield f"a rank sends {file_size(one.bytes)} in {one.count:,} x {one.name} among {ranks}"
