"""Times, durations and numbers as people read them."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.recipe import Recipe

_LAST_MOMENT = 250_000_000_000
"""In the year 9892."""


def duration(seconds: float | None) -> str:
    """Two units at most: `45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def moment_of(unix_time: float) -> datetime:
    """Turn a time into a date; one that no calendar has, as a damaged file may say it, into the nearest."""
    return datetime.fromtimestamp(min(max(unix_time, 0), _LAST_MOMENT))


def clock(unix_time: float | None, now: datetime | None = None) -> str:
    """`14:05` today, `Mon 14:05` within six days, else `2026-08-03 14:05`."""
    if not unix_time:
        return ""
    moment, now = moment_of(unix_time), now or datetime.now()
    if moment.date() == now.date():
        return moment.strftime("%H:%M")
    near = abs((moment.date() - now.date()).days) < 7
    return moment.strftime("%a %H:%M" if near else "%Y-%m-%d %H:%M")


def quantity(value: float | None) -> str:
    """Three digits: `950`, `12.3k`, `4.56M`."""
    if value is None:
        return ""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def file_size(size: int) -> str:
    """Three digits, in powers of 1,000: `950 bytes`, `12.3 kB`, `4.56 GB`."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.3g} {unit}"
    return f"{size} bytes"


def machine(recipe: "Recipe") -> str:
    """Say what a run occupies: `8 nodes x 4 GPUs`, `16 tasks x 32 CPUs, then 1 that finalises`."""
    wants = recipe.resources
    if recipe.trains:
        return f"{wants.nodes} node{'s' * (wants.nodes > 1)} x {wants.gpus_per_node or 'no'} GPUs"
    count, unit = (wants.gpus_per_node, "GPU") if wants.gpus_per_node else (wants.cpus_per_task, "CPU")
    each = f"{count} {unit}{'s' * (count > 1)}"
    if wants.nodes > 1:
        each = f"{wants.nodes} nodes x {each}"
    tasks = recipe.shares
    return f"{tasks} tasks x {each}, then 1 that finalises" if tasks > 1 else f"1 task x {each}"


def not_on(nodes: Sequence[str]) -> str:
    """Say which nodes a job is kept away from."""
    return f"not on {', '.join(nodes)}, which gave trouble lately (`launcher nodes list`)"


def node_list(nodes: Sequence[str]) -> str:
    """Write `gpu-[01-02,07]`, as Slurm does, where names differ in a last number; else names with commas."""
    by_prefix: dict[str, list[str]] = {}
    for node in sorted(set(nodes)):
        match = re.fullmatch(r"(.*?)(\d*)", node)
        assert match is not None  # both parts may be empty
        by_prefix.setdefault(match[1], []).append(match[2])
    return ",".join(_bracketed(prefix, numbers) for prefix, numbers in by_prefix.items())


def _bracketed(prefix: str, numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        return prefix + numbers[0]
    ranges: list[list[str]] = []
    for number in numbers:
        if ranges and len(number) == len(ranges[-1][-1]) and int(number) == int(ranges[-1][-1]) + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return f"{prefix}[{','.join('-'.join(ends) for ends in ranges)}]"
