"""Tables and words of a report, and what of it `--json` prints."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from launcher.cli.views.wording import duration, moment_of, node_list, quantity
from launcher.monitor.consumption import ENERGY_ASSUMPTION
from launcher.monitor.exit_reasons import EXIT_REASONS
from launcher.monitor.run_report import RunReport
from launcher.monitor.time_account import TIME_KINDS
from launcher.run.ledger import Attempt

DEFINITIONS = (
    ("queued", "between a submission, or an interruption, and the next start"),
    (
        "starting",
        "from the start of an attempt until its first step begins: loading, compiling, finding the checkpoint",
    ),
    ("useful", "steps that count"),
    ("redone", "steps that were lost with an attempt, so that they are done again"),
    ("saving", "checkpoints, the export, and what an attempt that ends in order does after its last step"),
    ("evaluating", "evaluations between steps"),
    ("lost", "all else: a step that was cut short, a hang, an attempt that failed before its first step"),
    ("idle", "stopped or failed, until somebody resumed it"),
    ("goodput", "useful time / time on nodes"),
    ("with queue", "useful time / (time on nodes + time in the queue): Meta's ETTR, https://arxiv.org/abs/2410.21680"),
    ("GPU-hours", "GPUs of each attempt's nodes x its time on them"),
    ("cost", "GPU-hours x the profile's `gpus.price`, in its currency"),
)


def summary_rows(reports: Sequence[RunReport]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Make the table of runs, with a sum of several."""
    heads = (
        *("run", "state", "steps", "loss", "wall clock", "attempts", "goodput", "with queue"),
        *("GPU-hours", "cost", "kWh, at most"),
    )
    rows = [_summary(one) for one in reports]
    if len(reports) > 1:
        total = sum(one.account.seconds() for one in reports)
        rows.append(("together", "", "", "", duration(total), "", "", "", *_used(reports)))
    return heads, rows


def _summary(one: RunReport) -> tuple[str, ...]:
    status, account = one.status, one.account
    step = "" if status.step is None else str(status.step)
    return (
        one.label,
        status.state,
        f"{step} of {status.total_steps}" if step and status.total_steps else step,
        "" if status.loss is None else f"{status.loss:.4g}",
        duration(account.seconds()),
        str(len(status.attempts)),
        percent(account.goodput),
        percent(account.goodput_with_queue),
        *_used([one]),
    )


def _used(reports: Sequence[RunReport]) -> tuple[str, str, str]:
    """GPU-hours, cost and energy; a sum is of no use if it lacks some."""
    hours = sum(one.used.total_gpu_hours for one in reports)
    costs, energies = [one.used.cost for one in reports], [one.used.most_kwh for one in reports]
    known_costs, known_energies = (
        [one for one in costs if one is not None],
        [one for one in energies if one is not None],
    )
    return (
        f"{hours:,.2f}" if hours else "",
        f"{sum(known_costs):,.2f}" if len(known_costs) == len(reports) else "",
        f"{sum(known_energies):,.1f}" if len(known_energies) == len(reports) else "",
    )


def percent(share: float | None) -> str:
    """`93.4 %`, or nothing."""
    return "" if share is None else f"{share:.1%}".replace("%", " %")


def time_rows(reports: Sequence[RunReport]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Make the table of kinds of time."""
    rows = []
    for one in reports:
        by_kind, whole = one.account.by_kind(), one.account.seconds()
        rows.append(
            (
                one.label,
                *(
                    f"{duration(by_kind[kind])}, {by_kind[kind] / whole:.0%}" if by_kind[kind] else ""
                    for kind in TIME_KINDS
                ),
                duration(whole),
            )
        )
    return ("run", *TIME_KINDS, "wall clock"), rows


def attempt_rows(one: RunReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Make the table of a run's attempts."""
    heads = ("attempt", "job", "nodes", "ranks", "steps", "start", "took", "useful", "ended", "then", "note")
    return heads, [_attempt(one, attempt) for attempt in one.status.attempts]


def _attempt(one: RunReport, attempt: Attempt) -> tuple[str, ...]:
    spans = [span for span in one.account.spans if span.attempt == attempt.number]
    useful = sum(span.seconds for span in spans if span.what == "useful")
    first, trace = attempt.first_step, one.metrics.traces.get(attempt.number)
    known = EXIT_REASONS.get(attempt.reason)
    return (
        str(attempt.number),
        attempt.job_id,
        node_list(attempt.nodes),
        str(attempt.world_size or ""),
        "" if first is None else f"{first}-{trace.last_step if trace else ''}",
        moment_of(attempt.started).strftime("%Y-%m-%d %H:%M:%S"),
        duration(sum(span.seconds for span in spans)),
        duration(useful) if useful else "",
        (attempt.reason or "") if known is None or not known.short else known.short,
        attempt.action or "",
        "" if one.is_credentialed else attempt.message,  # it may quote what a rank said
    )


def environment_of(one: RunReport) -> Iterator[tuple[str, str]]:
    """Say where a run was carried out, and by which code."""
    record, cluster = one.record, one.record.cluster
    resources, container = one.recipe.get("resources") or {}, cluster.get("container") or {}
    yield "kind", record.kind + (" (rehearsal)" if record.rehearsal else "")
    yield "folder", one.status.folder
    yield "created", moment_of(record.created).strftime("%Y-%m-%d %H:%M:%S")
    yield "data use", str(one.recipe.get("data_use", ""))
    yield "code", f"{record.code_commit or 'no commit'}, snapshot {record.code_hash}"
    yield "fingerprint", record.fingerprint
    yield "site", ", ".join(filter(None, [cluster.get("name"), (cluster.get("slurm") or {}).get("partition")]))
    gpus = f"{resources.get('gpus_per_node') or 'no'} {(cluster.get('gpus') or {}).get('type') or ''} GPUs each"
    yield "nodes", f"{resources.get('nodes', 1)}, {' '.join(gpus.split())}"
    yield "image", str(container.get("image") or "")
    yield "modules", ", ".join(cluster.get("modules") or ())
    versions = one.scores.versions if one.scores else {}
    yield "computed with", ", ".join(f"{name} {version}" for name, version in versions.items())
    if one.metrics.rows:
        speed = one.metrics.curves.get("tokens_per_second")
        yield "speed", f"{quantity(speed.mean)} tokens/s in the mean of {one.metrics.rows:,} rows" if speed else ""


def as_plain(one: RunReport) -> dict[str, Any]:
    """Write a report as JSON has it: curves as rows of step, least, mean and greatest value."""
    account, advice = one.account, one.advice
    return {
        "label": one.label,
        "id": one.record.id,
        "name": one.record.name,
        "kind": one.record.kind,
        "state": one.status.state,
        "seconds": account.by_kind(),
        "wall_clock_seconds": account.seconds(),
        "goodput": account.goodput,
        "goodput_with_queue": account.goodput_with_queue,
        "spans": [asdict(span) for span in account.spans],
        "gpus": one.used.gpus,
        "gpu_hours": one.used.total_gpu_hours,
        "gpu_hours_by_kind": one.used.gpu_hours,
        "cost": one.used.cost,
        "kwh_at_most": one.used.most_kwh,
        "kwh_assumption": ENERGY_ASSUMPTION,
        "checkpoint_interval": {**asdict(advice), "seconds": advice.seconds},
        "curves": {name: curve.points() for name, curve in one.metrics.curves.items()},
        "evaluations": one.evaluations,
        "scores": one.scores.model_dump(mode="json") if one.scores else None,
        "inputs": [asdict(each) for each in one.inputs],
        "recipe": one.recipe,
    }
