"""The next trial for an element of a search: one that nobody works on any more, or a new one.

Any number of elements may ask at once, and may be killed at any line. What is claimed first wins; what was claimed by
somebody who is gone is taken up again.
"""

import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.monitor.trials import PastTrial, read_past, sight_trial
from launcher.operate.search.best import publish_best
from launcher.operate.search.owners import find_absent
from launcher.operate.search.sampler import suggest
from launcher.operate.search.wandb_sweep import NothingGivenError, WandbSweep
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord, Submitted
from launcher.run.signs_of_life import last_sign_of_life
from launcher.run.trials import Owner, SearchDir, Trial, claim, read_trials, take_up
from launcher.submit.freeze import Freezer, NewRun, name_runs
from launcher.submit.plan_submission import SubmissionPlan, SubmitOptions
from launcher.submit.planned_recipe import PlannedRecipe, estimate_recipes
from launcher.submit.search_record import SearchRecord
from launcher.submit.snapshot import Snapshot

HOPELESS_FAILURES = 3
"""So many failed trials, and none that came to anything, end a search: it is the recipe, not the values."""
_TRIES = 20
"""Choices of values that do not go together, before an element gives up."""
PATIENCE_SECONDS = 300.0
"""How long it chooses. Telling W&B of one takes up to a minute, and the batch process waits ten for an answer."""


@dataclass(frozen=True)
class Offer:
    """What an element is to do."""

    trial: Trial | None
    why: str = ""
    """Why there is none."""
    is_done: bool = False
    """Whether the budget is spent, as opposed to a search that was stopped or cannot go on."""


def ask(folder: SearchDir, me: Owner, submission: SubmissionDir) -> Offer:
    """Find the next trial for an element and make it the trial's owner.

    Args:
        folder: The search.
        me: The element.
        submission: What it was started from.

    Raises:
        RunError: No values were found that go together, or W&B refuses.
    """
    record = SearchRecord.read(folder.record)
    sweep = WandbSweep(record) if record.search.sweep else None
    try:
        return _find(folder, me, submission, record, sweep)
    except NothingGivenError as end:
        return _end(folder, end)
    finally:
        if sweep:
            sweep.refuse()  # what was given, and no trial was made of


def _end(folder: SearchDir, end: NothingGivenError) -> Offer:
    """Say that W&B gives nothing; if its sweep has ended, the search has as many trials as there are."""
    trials = len(read_trials(folder))
    if not (end.has_ended and trials):
        return Offer(None, str(end))
    record = SearchRecord.read(folder.record).ending_at(trials)
    record.write(folder.record)
    told = publish_best(folder, record, read_past(folder, record.search.metric))
    return Offer(None, f"{end}" + (f"; {told}" if told else ""), is_done=True)


def _find(
    folder: SearchDir, me: Owner, submission: SubmissionDir, record: SearchRecord, sweep: WandbSweep | None
) -> Offer:
    search, site = record.search, record.site
    first = 0
    while True:
        past = read_past(folder, search.metric)
        if why := _reason_to_stop(folder, past):
            return Offer(None, why)
        if found := _take_up_open(folder, past, me, site):
            return Offer(_hand_out(folder, found, me, record, site, submission))
        number = max(first, len(past))
        if number >= search.budget:
            told = publish_best(folder, record, past)
            why = f"all {search.budget} trials are taken" + (f"; {told}" if told else "")
            return Offer(None, why, is_done=True)
        trial = replace(_choose(record, number, past, folder, sweep), owner=me)
        if claim(folder, trial):
            if sweep:
                sweep.keep()
            return Offer(_hand_out(folder, trial, me, record, site, submission))
        first = number + 1  # a listing of the folder may be old for a minute


def _reason_to_stop(folder: SearchDir, past: Sequence[PastTrial]) -> str | None:
    if folder.stop_request.exists():
        return "the search was stopped; `launcher resume` continues it"
    failed = sum(one.state == "failed" for one in past)
    if failed >= HOPELESS_FAILURES and not any(one.state in ("finished", "pruned") for one in past):
        return f"{failed} trials failed and none has finished; see `launcher why`; `launcher resume` tries them again"
    return None


def _take_up_open(folder: SearchDir, past: Sequence[PastTrial], me: Owner, site: Cluster) -> Trial | None:
    """Become the owner of a trial that nobody works on: my own one first."""
    waiting = [one for one in past if one.state == "open"]
    pruned = [one for one in past if one.state == "pruned" and one.unclosed is not None]
    absent = find_absent({one.owner for one in (*waiting, *pruned)}, me, site)
    absent -= {one.owner for one in (*waiting, *pruned) if sight_trial(folder, one)}
    for one in pruned:
        if one.owner in absent:  # killed while it saved
            _close(RunDir(folder.runs_root / one.trial.run), one.unclosed)
    for one in sorted(waiting, key=lambda one: one.owner.job != me.job):
        mine = replace(me, stops=one.stops if not one.owner.job else one.owner.stops)
        if one.owner in absent and take_up(folder, one.trial, one.turn, mine):
            return one.trial
    return None


def _close(run: RunDir, attempt: int | None) -> None:
    assert attempt is not None
    ended = last_sign_of_life(run)  # it may have been gone for days
    append_event(run.ledger, attempt, ended=ended, reason="pruned", source="STOP", action="stop")


def _choose(
    record: SearchRecord, number: int, past: Sequence[PastTrial], folder: SearchDir, sweep: WandbSweep | None
) -> Trial:
    """Choose the values of a trial, which nobody owns yet."""
    search, end = record.search, time.monotonic() + PATIENCE_SECONDS
    for again in range(_TRIES):
        given = sweep.take(past) if sweep else None
        values = dict(given.values) if given else suggest(search, record.direction, number, past, again)
        try:
            planned = _plan(record, number, values, record.site)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            if sweep:
                sweep.refuse()
            if time.monotonic() >= end:
                break
            continue
        [run] = name_runs(folder.runs_root, [planned.recipe])
        return Trial(number, run, values, planned.fingerprint, Owner(""), given.id if given else None)
    times = "once" if again == 0 else f"{again + 1} times"
    raise RunError(f"{record.name}: {times} values were chosen that do not go together; the last time: {reason}")


def _plan(record: SearchRecord, number: int, values: object, site: Cluster) -> PlannedRecipe:
    assert isinstance(values, dict)
    [planned] = estimate_recipes([record.trial_recipe(number, values)], site)
    return planned


def _hand_out(
    folder: SearchDir, trial: Trial, me: Owner, record: SearchRecord, site: Cluster, submission: SubmissionDir
) -> Trial:
    """Make sure that a trial has a run directory, and note in it who carries it out."""
    run = RunDir(folder.runs_root / trial.run)
    if not run.record.is_file():
        _freeze(folder, run, trial, record, site, submission)
    noted = RunRecord.read(run.record)
    if not noted.submissions or noted.submissions[-1].job_id != me.job:
        noted.submissions.append(Submitted(me.job, str(submission.root), time.time()))
        noted.write(run.record)
    return trial


def _freeze(
    folder: SearchDir, run: RunDir, trial: Trial, record: SearchRecord, site: Cluster, submission: SubmissionDir
) -> None:
    """Make a run directory that is there as a whole or not at all."""
    planned = _plan(record, trial.number, dict(trial.values), site)
    options = SubmitOptions(
        rehearsal=record.rehearsal, pipeline=Path(record.pipeline) if record.pipeline else None, stage=record.stage
    )
    snapshot = Snapshot(Path(record.code), record.commit, None, None)
    plan = SubmissionPlan(site, options, folder.runs_root, (planned,), (), snapshot, ())
    own = folder.staging / uuid.uuid4().hex
    staged = RunDir(own / run.root.name)
    staged.root.mkdir(planned.folder_mode, parents=True)
    frozen = Freezer(plan).freeze_run(NewRun(staged, planned), submission)
    if trial.wandb_id and record.search.sweep:
        frozen.record.wandb_id, frozen.record.wandb_sweep = trial.wandb_id, record.search.sweep.rpartition("/")[2]
        frozen.record.write(staged.record)
    try:
        os.rename(staged.root, run.root)
    except OSError:
        if not run.record.is_file():  # another one has just made it
            raise
    finally:
        shutil.rmtree(own, ignore_errors=True)
