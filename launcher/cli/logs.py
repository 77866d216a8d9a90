"""`launcher logs`: what the ranks of a run print, now and in earlier attempts."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, RunArgument, StageArgument
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.run.paths import RunDir

FAILURE_LINES = 20


def logs(
    run: RunArgument,
    stage: StageArgument = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing, across attempts, until the run is over.")
    ] = False,
    rank: Annotated[int, typer.Option(help="Which rank.", min=0)] = 0,
    attempt: Annotated[
        int | None, typer.Option(help="Which attempt; the newest by default.", min=0, show_default=False)
    ] = None,
    all_ranks: Annotated[bool, typer.Option("--all-ranks", help="All ranks, each line labelled.")] = False,
    batch: Annotated[
        bool, typer.Option("--batch", help="The batch process's log instead: start, stop requests, why it ended.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines; 0 = all.", min=0)] = 100,
    cluster: ClusterOption = None,
) -> None:
    """Print a run's log: rank 0 of the newest attempt, and the rank that failed first."""
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run
    from launcher.monitor.logs import attempts_with_logs, choose_attempt, choose_rank
    from launcher.pipeline.find import find_stage

    profile = load_cluster(cluster)
    found = find_stage(profile, run, stage) if stage else find_run(profile, run)
    if follow and attempt is None and not attempts_with_logs(found):
        _wait_for_start(profile, found)
    if _show_scheduler_log(found, lines):
        return
    number = choose_attempt(found, attempt)
    choose = _chooser(found, rank, all_ranks, batch)
    if not all_ranks and not batch:
        choose_rank(found, number, rank)
    _say_where(found, number, choose(number))
    if follow:
        _follow(profile, found, choose, number, attempt is None, lines)
        return
    _print_tails(choose(number), lines)
    if not all_ranks and not batch:
        _print_failure(found, number, rank)


def follow_run(profile: "Cluster", run: "RunDir") -> None:
    """Print what rank 0 prints, from the first attempt on, until the run is over."""
    from launcher.monitor.logs import choose_attempt

    _wait_for_start(profile, run)
    if _show_scheduler_log(run, 0):
        return
    choose = _chooser(run, 0, False, False)
    number = choose_attempt(run, None)
    _say_where(run, number, choose(number))
    _follow(profile, run, choose, number, True, 0)


def _chooser(run: "RunDir", rank: int, all_ranks: bool, batch: bool) -> Callable[[int], Mapping[str, Path]]:
    from launcher.monitor.logs import rank_logs

    if batch:
        return lambda attempt: {"": run.batch_log(attempt)}
    if all_ranks:
        return lambda attempt: {f"[rank {number}] ": path for number, path in rank_logs(run, attempt).items()}
    return lambda attempt: {"": run.rank_log(attempt, rank)}


def _say_where(run: "RunDir", attempt: int, shown: Mapping[str, Path]) -> None:
    """Say on stderr what is shown and where the others are, so that stdout is the log alone."""
    from launcher.monitor.logs import rank_logs

    ranks = [*rank_logs(run, attempt)]
    others = f"; ranks 0 to {ranks[-1]}: `--rank N`, `--all-ranks`" if len(ranks) > 1 else ""
    earlier = f"; earlier attempts: `--attempt 0` to `{attempt - 1}`" if attempt else ""
    what = next(iter(shown.values())) if len(shown) == 1 else run.attempt_logs(attempt)
    tell(f"==> {what}{others}{earlier}")


def _print_tails(shown: Mapping[str, Path], lines: int) -> None:
    from launcher.monitor.logs import read_tail

    for label, path in shown.items():
        for line in read_tail(path, lines or None):
            typer.echo(f"{label}{line}")


def _print_failure(run: "RunDir", attempt: int, shown_rank: int) -> None:
    from launcher.monitor.logs import find_failure, read_tail

    failure = find_failure(run, attempt)
    if failure is None:
        return
    tell(f"==> rank {failure.rank} failed first ({failure.evidence}): {failure.log}")
    if failure.rank != shown_rank:
        for line in read_tail(failure.log, FAILURE_LINES):
            typer.echo(f"[rank {failure.rank}] {line}")


def _follow(
    profile: "Cluster",
    run: "RunDir",
    choose: Callable[[int], Mapping[str, Path]],
    attempt: int,
    across: bool,
    lines: int,
) -> None:
    from launcher.monitor.logs import Follower
    from launcher.monitor.status import read_statuses

    follower = Follower(run, choose, attempt, across, lambda: read_statuses(profile, [run])[0][0].is_over)
    if lines:
        follower.skip_to_tail(lines)
    try:
        for number, label, line in follower.lines():
            if number != attempt:
                attempt = number
                tell(f"==> attempt {attempt}")
            typer.echo(f"{label}{line}")
    except KeyboardInterrupt:
        tell("the run continues; `launcher stop` saves and stops it")
        return
    [status], _ = read_statuses(profile, [run])
    tell(f"==> {status.state}{f': {status.why}' if status.why else ''}")


def _wait_for_start(profile: "Cluster", run: "RunDir") -> None:
    """Wait until there is a log, telling why not whenever that changes."""
    import time

    from launcher.cli.views.wording import clock
    from launcher.monitor.logs import IDLE_SECONDS, POLL_SECONDS, attempts_with_logs
    from launcher.monitor.status import read_statuses

    shown, asked = "", float("-inf")
    while not attempts_with_logs(run):
        if time.monotonic() - asked > IDLE_SECONDS:
            asked = time.monotonic()
            [status], _ = read_statuses(profile, [run])
            start = f", starts about {clock(status.start_estimate)}" if status.start_estimate else ""
            words = f"==> {status.state}: {status.why}{start}"
            if words != shown:
                tell(words)
            shown = words
            if status.is_over:
                return
        time.sleep(POLL_SECONDS)


def _show_scheduler_log(run: "RunDir", lines: int) -> bool:
    """Show what Slurm itself wrote where no attempt got far enough to log; tell whether that was so."""
    from launcher.monitor.logs import attempts_with_logs, read_tail, scheduler_log

    log = None if attempts_with_logs(run) else scheduler_log(run)
    if log is None:
        return False
    tell(f"==> no attempt has started; output of the batch script: {log}")
    sys.stdout.writelines(f"{line}\n" for line in read_tail(log, lines or None))
    return True
