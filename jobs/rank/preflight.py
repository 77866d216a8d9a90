"""Checks before the work: every node is fit for it, and all ranks have the same recipe and the same code.

A bad node is named, and costs an attempt now instead of a hang later. The result lies in the attempt's folder, where
the batch process reads it.
"""

import hashlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.rank.context import Context
from jobs.rank.gpu_checks import gpu_faults
from jobs.rank.node_checks import clock_fault, shared_memory_faults
from jobs.rank.start_barrier import MissingRanksError, StartBarrier, open_start_barrier
from launcher.errors import RunError
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import COMPLETE, RunDir, published_steps
from launcher.run.record import fingerprint
from launcher.run.stage_inputs import missing_inputs
from launcher.run.typed import read_object

MIN_FREE_BYTES = 2**30
"""Space that a run directory must have besides checkpoints: logs, metrics, W&B's files."""

Report = dict[str, Any]


class UnfitNodeError(Exception):
    """A node cannot do its part; an attempt on other nodes may succeed."""


@dataclass(frozen=True)
class Judgement:
    """What is wrong, if anything is."""

    recipe: str = ""
    """With the recipe, the code or the packages; it would be the same in every attempt."""
    node: str = ""
    """With nodes, or with what they share; another attempt may not meet it."""
    unfit: Sequence[str] = ()
    """Nodes that another attempt should not be given."""
    are_inputs_missing: bool = False
    """Whether a stage before this one has not finished."""


@dataclass(frozen=True)
class Room:
    """Free space that a run needs."""

    checkpoints: int = 0
    """How many it has to have room for."""
    size: int = 0
    """Bytes of each."""
    certainty: str = ""

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return MIN_FREE_BYTES + self.checkpoints * self.size

    @property
    def reason(self) -> str:
        """What it is for: `2 checkpoints of about 75.3 GiB`; empty if nothing is known of checkpoints."""
        if not self.checkpoints:
            return ""
        what = "checkpoint" if self.checkpoints == 1 else "checkpoints"
        return f"{self.checkpoints} {what} of {self.certainty}{self.size / 2**30:.1f} GiB"


def preflight(context: Context) -> StartBarrier | None:
    """Check all nodes, and that all ranks have the same recipe and code.

    Returns:
        The barrier at which the ranks later leave together; None for a rank that is alone.

    Raises:
        UnfitNodeError: A node is not fit, or did not arrive; the message names it.
        RunError: The ranks have different recipes or code, or all of them a torch that cannot use the GPUs.
    """
    report = _report(context)
    barrier = None
    try:
        attempt = f"{context.run.root}/{context.attempt}"
        barrier = open_start_barrier(context.ranks, lambda rank: node_of(context, rank), attempt)
        found = judge([report]) if barrier is None else Judgement(**barrier.ask_all(report, _judge_for_all))
    except MissingRanksError as error:
        found = Judgement(node=str(error), unfit=error.nodes)
    if found.are_inputs_missing and context.ranks.is_main:
        append_event(context.run.ledger, context.attempt, missing_inputs=True)
    if found.recipe:
        raise RunError(found.recipe)
    if found.node:
        _record(context, found)
        raise UnfitNodeError(found.node)
    return barrier


def _judge_for_all(reports: Sequence[Report]) -> dict[str, Any]:
    return asdict(judge(reports))


def _record(context: Context, found: Judgement) -> None:
    with suppress(OSError), context.run.preflight(context.attempt).open("x", encoding="utf-8") as file:
        # Whichever rank comes first writes it.
        file.write(json.dumps({"message": found.node, "unfit": list(found.unfit)}) + "\n")


def _report(context: Context) -> Report:
    gpus, shortages = gpu_faults(context), []
    faults = gpus.of_node
    missing = missing_inputs(context.record) if context.ranks.is_main else []
    if context.ranks.local_rank == 0:
        faults += [*write_faults(context.run), *shared_memory_faults()]
        shortages += space_faults(context.run, context.record.checkpoint_bytes)
    return {
        "rank": context.ranks.rank,
        "file_clock": file_clock(context.run),
        "node": node_name(),
        "fingerprint": fingerprint(json.loads(context.run.recipe.read_text(encoding="utf-8"))),
        "code": code_hash(Path(__file__).parents[2]),
        "queued": context.record.fingerprint,
        "faults": faults,
        "software": gpus.of_software,
        "shortages": shortages,
        "missing": missing,
    }


def judge(reports: Sequence[Report]) -> Judgement:
    """Find what is wrong with the reports of all ranks; a shortage of space is no single node's fault."""
    if missing := [text for report in reports for text in report.get("missing", ())]:
        return Judgement("; ".join(missing), are_inputs_missing=True)
    if all(report.get("software") for report in reports):  # if only some do, their nodes differ from the others
        return Judgement("; ".join(dict.fromkeys(text for report in reports for text in report["software"])))
    usual_clock = _usual_clock(reports)
    faults = {report["rank"]: _faults_of(report, usual_clock) for report in reports}
    wrong = [
        f"{report['node']}: {fault}" for report in reports for fault in faults[report["rank"]] + report["shortages"]
    ]
    if wrong:
        unfit = [report["node"] for report in reports if faults[report["rank"]]]
        return Judgement(node="; ".join(dict.fromkeys(wrong)), unfit=tuple(dict.fromkeys(unfit)))
    for what in ("fingerprint", "code"):
        usual, _ = Counter(report[what] for report in reports).most_common(1)[0]
        odd = [f"rank {report['rank']} on {report['node']}" for report in reports if report[what] != usual]
        if odd:
            name = "recipe.json" if what == "fingerprint" else "code"
            return Judgement(f"the ranks do not see the same {name}: {', '.join(odd)} differ from the others")
    if reports[0]["fingerprint"] != reports[0]["queued"]:
        return Judgement("recipe.json is not the recipe that was queued; submit the changed recipe as a new run")
    return Judgement()


def _usual_clock(reports: Sequence[Report]) -> Report:
    """Find the report of a node whose clock is right: the median of all nodes, or the one that files agree with.

    The first node's own clock may be the wrong one, and with two nodes no majority tells.
    """
    nodes = [*{report["node"]: report for report in reversed(reports)}.values()]
    if len(nodes) == 2:
        return min(reversed(nodes), key=lambda report: abs(report.get("file_clock", 0.0)))
    return sorted(nodes, key=lambda report: report.get("clock", 0.0))[(len(nodes) - 1) // 2]


def _faults_of(report: Report, usual: Report) -> list[str]:
    """List what is wrong with the node of a report, by the clock of a usual one as well."""
    clock = clock_fault(report.get("clock", 0.0) - usual.get("clock", 0.0), usual["node"])
    return [*report["faults"], *report.get("software", ()), *([clock] if clock else [])]


def write_faults(run: RunDir) -> list[str]:
    """Check that this node can write into the run directory."""
    probe = run.root / f".preflight-{uuid.uuid4().hex}"
    try:
        _write_and_read(probe)
    except OSError as error:
        return [f"cannot write and read `{run.root}`: {error.strerror or error}"]
    finally:
        with suppress(OSError):
            probe.unlink()
    return []


def file_clock(run: RunDir) -> float:
    """By how many seconds this node's clock is ahead of the times of files in the run directory; 0 if that is unknown.

    A file server sets them by its own clock. Where the node itself sets them they say nothing, which is 0, too.
    """
    probe = run.root / f".preflight-{uuid.uuid4().hex}"
    try:
        probe.touch()
        ahead = time.time() - probe.stat().st_mtime
        probe.unlink()
    except OSError:  # `write_faults` reports it
        return 0.0
    return ahead


def space_faults(run: RunDir, expected: int | None) -> list[str]:
    """Check that the next checkpoints will fit.

    Args:
        run: Where they go.
        expected: Bytes of one, if the launcher could estimate them.
    """
    try:
        free, room = _free_bytes(run.root), room_needed(run, expected)
    except OSError:  # `write_faults` reports it
        return []
    if free >= room.total:
        return []
    needed = f"{room.total / 2**30:.1f} GiB ({room.reason})" if room.reason else f"{room.total / 2**30:.1f} GiB"
    return [f"`{run.root}` has {free / 2**30:.1f} GiB left, but the run needs {needed}"]


def _write_and_read(probe: Path) -> None:
    content = os.urandom(4096)
    with probe.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if probe.read_bytes() != content:
        raise OSError("the file read back differs from what was written")


def _free_bytes(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def room_needed(run: RunDir, expected: int | None) -> Room:
    """Return the free space for the next checkpoint, or the first two, and for small files.

    A new checkpoint is written before an old one is removed.
    """
    steps = published_steps(run)
    if not steps:
        return Room(2, expected, "about ") if expected else Room()
    try:
        manifest = read_object(run.checkpoint(steps[-1]) / COMPLETE)
        return Room(1, sum(int(size) for size, _ in manifest["files"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return Room()  # CheckpointStore finds a damaged manifest, and names it


def code_hash(root: Path) -> str:
    """Hash all Python files of `jobs/` and `launcher/` below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for package in ("jobs", "launcher") for path in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def node_name() -> str:
    """Name this node as Slurm does."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def node_of(context: Context, rank: int) -> str:
    """Name the node of a rank as the ledger has it."""
    nodes = next((entry.nodes for entry in read_attempts(context.run.ledger) if entry.number == context.attempt), [])
    position = rank // context.ranks.local_world_size
    return nodes[position] if position < len(nodes) else f"node {position}"
