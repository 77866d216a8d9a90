"""kind: outcomes - MIMIC's tables become notes with outcomes: read, join, find sections, label, split, write, publish.

It takes minutes, so an attempt that was stopped starts again; what is published is never made twice.
"""

import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import cast

from jobs.data.outcomes.inputs import OutcomesPlan, make_plan
from jobs.data.outcomes.labelling import AdmissionLabels
from jobs.data.outcomes.notes import NoteReader, NoteStore, StoredNote, by_admission, joined
from jobs.data.outcomes.rules import diagnosis_group, procedure_grouping
from jobs.data.outcomes.sections import admission_text
from jobs.data.outcomes.split import SplitOf, hashed_split, listed_split
from jobs.data.outcomes.summary import describe_outcomes, manifest_of
from jobs.data.outcomes.tables import read_admissions, read_codes, read_labels, read_patients
from jobs.data.outcomes.writing import OutcomeWriter, write_classes
from jobs.rank.atomic_files import naming, sync_tree, write_durably
from jobs.rank.context import Context
from jobs.rank.progress_rows import ProgressRows
from jobs.rank.publish import is_in_place, put_in_place, staging_folder
from jobs.rank.stop_flag import STOP, noting_stop
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.outcomes_manifest import MANIFEST, read_outcomes
from launcher.errors import LauncherError
from launcher.recipe.kinds.outcomes import OutcomesRecipe
from launcher.recipe.sections.labelled_notes import NOTE_SPLITS, NoteSplit, Outcome
from launcher.run.ledger import append_event


def main(context: Context) -> None:
    """Make the tables that the recipe describes.

    Raises:
        LauncherError: a table cannot be used, too much of it is unreadable, an outcome has no note, or the name is
            taken.
        StopRequested: a stop was asked for before the tables were there.
    """
    plan = make_plan(context, cast(OutcomesRecipe, context.recipe))
    total = len(plan.paths) + 1
    append_event(context.run.ledger, context.attempt, first_step=0, total_steps=total)
    if _is_published(plan):
        print(f"{plan.folder}: exists already, made from files of the same names and sizes with the same settings")
    else:
        with noting_stop(context), naming(plan.folder.parent):
            _make_tables(plan, context)
    print(f"{plan.folder}:", *describe_outcomes(read_outcomes(plan.folder)), sep="\n    ", flush=True)
    append_event(context.run.ledger, context.attempt, last_step=total, reason="finished", source="outcomes")


def _is_published(plan: OutcomesPlan) -> bool:
    """Tell whether these very tables are there already; anything else there is an error."""

    def describe_other() -> str | None:
        try:
            there = read_outcomes(plan.folder)
        except LauncherError:
            return "holds no complete outcome tables"
        return None if there.fingerprint == plan.fingerprint else "holds tables made from other files or settings"

    return is_in_place(plan.folder, "output", describe_other)


def _make_tables(plan: OutcomesPlan, context: Context) -> None:
    fix = "ask its owner, or set a `roots.data` of your own in the cluster profile, with links to the tables"
    with staging_folder(plan.folder, context, fix) as staging:
        _write_tables(plan, context, staging)
        sync_tree(staging)
        put_in_place(staging, plan.folder, partial(_is_published, plan))


def _write_tables(plan: OutcomesPlan, context: Context, staging: Path) -> None:
    labels, left_out = _read_labels(plan, context), Counter[str]()
    with tempfile.TemporaryFile(dir=staging) as file:
        store = NoteStore(file)
        notes = _read_notes(plan, context, labels, store, left_out)
        with OutcomeWriter(staging, labels.outcomes) as writer:
            for number, its in notes.items():
                STOP.raise_if_requested()
                WATCHDOG.heartbeat()
                text = admission_text(joined(its, store), plan.recipe.rules)
                if text is None:
                    left_out["no_main_section"] += 1
                else:
                    labels.write(number, text, writer)
    labels.count_labels_without_note(writer)
    writer.refuse_empty()
    for outcome, codes in labels.codes.items():
        write_classes(staging, outcome, codes.classes)
    manifest = manifest_of(plan, context, staging, writer, left_out)
    write_durably(staging / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def _read_labels(plan: OutcomesPlan, context: Context) -> AdmissionLabels:
    """Read all tables but the notes."""
    recipe, columns = plan.recipe, plan.recipe.source.columns
    with plan.table("source.admissions") as (stream, left_out):
        admissions = read_admissions(stream, columns, left_out)
    labels = AdmissionLabels(admissions, _read_split(plan), recipe.rules)
    groupings = {"diag": ("diagnoses", diagnosis_group), "proc": ("procedures", procedure_grouping(recipe.rules))}
    for outcome, (key, grouping) in groupings.items():
        if getattr(recipe.source, key):
            with plan.table(f"source.{key}") as (stream, left_out):
                labels.codes[cast(Outcome, outcome)] = read_codes(stream, columns, admissions, grouping, left_out)
            _note_progress(plan, context)
    if recipe.source.ventilation:
        with plan.table("source.ventilation") as (stream, _):
            labels.ventilation = read_labels(stream)
    _note_progress(plan, context)
    return labels


def _read_split(plan: OutcomesPlan) -> SplitOf:
    recipe, lists = plan.recipe, dict[int, NoteSplit]()
    if recipe.patients is None:
        return hashed_split(recipe.source.format, recipe.split_seed)
    for split in NOTE_SPLITS:
        with plan.table(f"patients.{split}") as (stream, _):
            read_patients(stream, split, lists)
    return listed_split(lists)


def _read_notes(
    plan: OutcomesPlan, context: Context, labels: AdmissionLabels, store: NoteStore, left_out: Counter[str]
) -> dict[int, list[StoredNote]]:
    """Read the notes of each admission; count admissions that are left out."""
    source = plan.recipe.source
    reader = NoteReader(source.format, source.columns, labels.admissions, store)
    with plan.table("source.notes") as (stream, notes_left_out):
        notes = by_admission(reader.read(stream, notes_left_out), notes_left_out, left_out)
    _note_progress(plan, context)
    return notes


def _note_progress(plan: OutcomesPlan, context: Context) -> None:
    # Not in the ledger, which says what the next attempt need not do again.
    ProgressRows(context, None).write_row(step=len(plan.read))
