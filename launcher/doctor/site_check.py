"""What a check of a site showed, judged: `launcher doctor --submit`."""

from collections.abc import Iterator
from dataclasses import dataclass

from launcher.artifacts.site_measurements import Rate, SiteMeasurements
from launcher.doctor.finding import Finding, note, ok, problem
from launcher.run.ledger import Attempt

SLOW_START_SECONDS = 120
SKEW_SECONDS = 5.0
"""W&B, `status` and the time account compare times that different nodes wrote."""
SLOW_DISK, SLOW_FILES = 200e6, 20.0
"""Bytes a second of all nodes together; files a second. Below them saves of 100 GB take longer than eight minutes."""


@dataclass(frozen=True)
class SiteCheck:
    """What is known of a check when its run is over."""

    run: str
    """Name of its folder."""
    state: str
    """As in `launcher status`."""
    measured: SiteMeasurements | None
    attempts: tuple[Attempt, ...]
    asked: float | None
    """Unix time at which it was asked to stop."""
    asked_attempt: int = 0
    """Number of the attempt that was asked; another one may have ended before it, preempted for example."""


def site_check_findings(check: SiteCheck) -> Iterator[Finding]:
    """Judge what a check showed. Pure."""
    measured = check.measured
    if measured is None:
        why = next((one.message or one.fault for one in reversed(check.attempts)), "")
        yield problem(
            "check", f"the run is {check.state} and measured nothing: {why}", f"see `launcher why {check.run}`"
        )
        return
    where = f"{len(measured.nodes)} nodes x {measured.ranks_per_node} ranks on {measured.device.upper()}"
    started = f"{where}: all ranks were together {measured.rendezvous_seconds:.0f} s after the job had started"
    if measured.rendezvous_seconds > SLOW_START_SECONDS:
        yield note("rendezvous", started, "look at the file system that holds Python: every rank imports torch from it")
    else:
        yield ok("rendezvous", started)
    if measured.inside:
        yield ok("inside a node", f"a rank sends {_rates(measured.inside)}")
    if measured.between:
        yield ok("between nodes", f"a node sends {_rates(measured.between)}")
    yield from _storage_findings(measured)
    if measured.clock_skew_seconds > SKEW_SECONDS:
        yield note("clocks", f"differ by {measured.clock_skew_seconds:.0f} s between nodes", "ask for NTP on all nodes")
    else:
        yield ok("clocks", "of all nodes agree")
    yield from _interruption_findings(check)


def _rates(rates: tuple[Rate, ...]) -> str:
    return ", ".join(f"{_size(one.per_second)}/s in messages of {_size(one.bytes, binary=True)}" for one in rates)


def _size(number: float, binary: bool = False) -> str:
    base, units = (1024, ("B", "KiB", "MiB", "GiB")) if binary else (1000, ("B", "kB", "MB", "GB"))
    place = 0
    while number >= base and place < len(units) - 1:
        number, place = number / base, place + 1
    return f"{number:.3g} {units[place]}"


def _storage_findings(measured: SiteMeasurements) -> Iterator[Finding]:
    if measured.write is None or measured.read is None:
        yield problem("file system", "has no room for a file of each node", "free space below `roots.runs`")
        return
    small = measured.small_files_per_second
    what = (
        f"all nodes together write {_size(measured.write.per_second)}/s and read {_size(measured.read.per_second)}/s;"
        f" {small:,.0f} small files a second"
    )
    if measured.write.per_second < SLOW_DISK or small < SLOW_FILES:
        yield note("file system", what, "put `roots.runs` on a faster one, or save less often")
    else:
        yield ok("file system", what)


def _interruption_findings(check: SiteCheck) -> Iterator[Finding]:
    attempts = [one for one in check.attempts if one.number >= check.asked_attempt]
    if check.asked is None or not attempts or attempts[0].reason == "finished":
        yield note("stop request", "was not tried: the run was over before it could be asked")
        return
    first, *later = attempts
    if first.ended is None or first.action is None:
        yield problem("stop request", f"did not end attempt {first.number}", f"see `launcher why {check.run}`")
        return
    yield ok("stop request", f"all ranks had left {max(0.0, first.ended - check.asked):.0f} s after it")
    if not later:
        what = f"the job was not started again: {first.action}"
        yield problem("requeue", what, f"see `launcher why {check.run}`; is `JobRequeue` or `slurm.requeue` off?")
    elif check.state != "finished":
        yield problem("requeue", f"the next attempt is {check.state}", f"see `launcher why {check.run}`")
    else:
        yield ok("requeue", f"the next attempt started {max(0.0, later[0].started - first.ended):.0f} s later")
